package kube

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// look finds the clusters that are configured now, by name. Where not all can be looked at, whole is false, and those
// that are not found may be there all the same. failed is why there are none, or why it is not whole.
func (s *Clusters) look() (found map[string]place, whole bool, failed error) {
	switch {
	case !s.Several:
		return map[string]place{"": at(s.choose())}, true, nil
	case s.hasContexts():
		return s.contexts()
	}
	return s.files()
}

// choose is where the kubeconfig is found. One that was there once stays the choice: while it is replaced it may be
// missing for a moment, in which another cluster than the one that was meant would be served by the same names.
func (s *Clusters) choose() Source {
	if s.settled {
		return s.from
	}
	s.from = s.source()
	s.settled = s.from.Data != "" || slices.ContainsFunc(s.from.Files, func(file string) bool {
		_, err := os.Stat(file)
		return err == nil || s.Kubeconfig == "" && file == mountedKubeconfig // Find has seen it
	})
	where := "" // where there is nothing yet, which is told as a failure
	if s.settled {
		where = "kubeconfig " + s.from.String()
	} else if len(s.from.Files) == 0 {
		where = "the pod's service account"
	}
	if where != s.where && where != "" {
		slog.Info("the cluster and the credentials come from " + where)
	}
	s.where = where
	return s.from
}

// at is a place of which all of the kubeconfig counts.
func at(source Source) place {
	print, err := source.Fingerprint()
	return place{source, print, err != nil}
}

// files finds a cluster in each file of a folder. Names that begin with a dot are none: a mounted Secret has its
// content there, once per version, with links to it by their names in the folder.
func (s *Clusters) files() (found map[string]place, whole bool, failed error) {
	folder := shown(s.Kubeconfig)
	entries, err := os.ReadDir(s.Kubeconfig)
	if err != nil {
		return nil, errors.Is(err, fs.ErrNotExist), misconfigured("cannot read the folder of kubeconfigs %s: %s; "+
			"make it readable for this process's user", folder, err.(*fs.PathError).Err)
	}
	found = map[string]place{}
	for _, entry := range entries {
		file := filepath.Join(s.Kubeconfig, entry.Name())
		info, err := os.Stat(file)
		if !strings.HasPrefix(entry.Name(), ".") && (err == nil && info.Mode().IsRegular() ||
			err != nil && !errors.Is(err, fs.ErrNotExist)) {
			found[entry.Name()] = at(Source{Files: []string{file}, Native: s.Native, isEntry: true})
		}
	}
	if len(found) == 0 {
		failed = misconfigured("no cluster configured: the folder %s has no files; put a kubeconfig for each cluster there. "+
			"Where it was meant to be a file: container engines make a folder where what is to be mounted does not exist",
			folder)
	}
	return found, true, failed
}

// contexts finds a cluster in each context that is one.
func (s *Clusters) contexts() (found map[string]place, whole bool, failed error) {
	source := s.choose()
	print, failed := source.Fingerprint()
	var raw *clientcmdapi.Config
	switch {
	case failed != nil:
		failed = misconfigured("cannot read kubeconfig %s: %s; %s", source, failed, remedy(s.Kubeconfig, failed, ""))
	case print == s.at:
		return s.found, true, s.failed
	default:
		raw, failed = source.load()
	}
	found, whole = map[string]place{}, failed == nil
	named := s.Contexts
	if s.AllContexts && whole {
		for name := range raw.Contexts {
			if name != "" {
				named = append(named, Named{name, name})
			}
		}
		if len(named) == 0 {
			failed = source.readable()
		}
		if len(named) == 0 && failed == nil {
			failed = misconfigured("no cluster configured: kubeconfig %s has no context; %s", source, mount)
		}
	}
	for _, n := range named {
		p := place{source: source, unread: !whole}
		if p.source.Context = n.Context; whole {
			p.print = printOf(raw, n.Context)
		}
		found[n.Name] = p
	}
	if whole {
		s.at, s.found, s.failed = print, found, failed
	}
	return found, whole, failed
}

// printOf changes when what a context stands for changes, whatever else there is in the kubeconfig.
func printOf(raw *clientcmdapi.Config, name string) [sha256.Size]byte {
	is := raw.Contexts[name]
	if is == nil {
		return [sha256.Size]byte{}
	}
	all, _ := json.Marshal([]any{is, raw.Clusters[is.Cluster], raw.AuthInfos[is.AuthInfo]}) // nothing there can fail
	return sha256.Sum256(all)
}
