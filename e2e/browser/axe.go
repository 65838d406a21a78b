package browser

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"metrics-server-prom/e2e/controlplane"
)

// The version of axe-core, and the checksum of its package as package-lock.json files have it.
const (
	axeVersion = "4.14.1"
	axeSHA512  = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)

// axe is the source of axe-core, which npm fetches once for this machine.
func axe(ctx context.Context) (string, error) {
	cache, err := controlplane.CacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "axe-core-"+axeVersion+".tgz")
	if _, err := os.Stat(path); err != nil {
		cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "axe-core@"+axeVersion)
		cmd.Dir = cache
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("fetching axe-core: %w\n%s", err, out)
		}
	}
	archive, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if sum := sha512.Sum512(archive); base64.StdEncoding.EncodeToString(sum[:]) != axeSHA512 {
		os.Remove(path)
		return "", fmt.Errorf("%s is not what it should be; it was removed", path)
	}
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return "", err
	}
	for files := tar.NewReader(zip); ; {
		file, err := files.Next()
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if file.Name == "package/axe.min.js" {
			source, err := io.ReadAll(files)
			return string(source), err
		}
	}
}

// Violation is a rule of axe-core that a page breaks.
type Violation struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML, FailureSummary string }
}

// Axe is what axe-core finds on the page.
func (t *Tab) Axe(ctx context.Context) (violations []Violation, err error) {
	source, err := axe(ctx)
	if err != nil {
		return nil, err
	}
	var loaded bool
	if err := t.Eval("(() => {"+source+"\n;return true})()", &loaded); err != nil {
		return nil, err
	}
	err = t.Eval("axe.run().then((found) => found.violations)", &violations)
	return violations, err
}
