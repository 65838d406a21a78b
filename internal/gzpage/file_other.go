//go:build !linux

package gzpage

import (
	"errors"
	"io"
	"os"
)

// newFile fails: pages are held in the process' own memory here.
func newFile() (*os.File, error) { return nil, errors.ErrUnsupported }

// reopen is never called, as there is no file.
func reopen(*os.File, int64) (io.Reader, io.Closer, error) { return nil, nil, errors.ErrUnsupported }

// collapse is never called, for the same reason.
func collapse(*os.File, int64) {}
