package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// fakeKubectl answers what deploy/outside/kubeconfig.sh asks; the token is TOKEN of its environment.
const fakeKubectl = `#!/bin/sh
case "$*" in
apply*) echo "$*" ;;
*cluster.server*) echo https://api.example:6443 ;;
*cluster.certificate-authority-data*) echo Q0E= ;;
*"create token"*) echo "$TOKEN" ;;
esac
`

// TestKubeconfigScriptReplacesItsFileByRenaming looks at every event in the folder: a reader never meets a missing or a
// half file, and finds the new one under its name.
func TestKubeconfigScriptReplacesItsFileByRenaming(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "config")
	runKubeconfigScript(t, "first", file)

	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	const all = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MODIFY | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO
	if _, err := syscall.InotifyAddWatch(fd, folder, all); err != nil {
		t.Fatal(err)
	}
	runKubeconfigScript(t, "second", file)
	if got := events(t, fd, "config"); !slices.Equal(got, []uint32{syscall.IN_MOVED_TO}) {
		t.Errorf("events of the file: %#x, want only that another was moved to its name: %#x", got, syscall.IN_MOVED_TO)
	}

	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "token: second\n") {
		t.Errorf("the file after the second run: %v\n%s", err, text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is not for its owner alone: %v %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("left in the folder: %v %v", left, err)
	}
}

// TestKubeconfigScriptRefusesAFolder has the folder that a container engine makes of a missing file.
func TestKubeconfigScriptRefusesAFolder(t *testing.T) {
	folder := t.TempDir()
	out, err := kubeconfigScript(t, "token", folder).CombinedOutput()
	if err == nil || !strings.Contains(string(out), folder+" is a folder; name a file in it: "+folder+"/config") {
		t.Errorf("%v, and says:\n%s", err, out)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v %v", left, err)
	}
}

func TestKubeconfigScriptGrantsWhatIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		role    string
	}{
		{"the least", nil, "/kubernetes/clusterrole.yaml"},
		{"the pages too", []string{"--pages"}, "/kubernetes/components/pages/clusterrole.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := kubeconfigScript(t, "token", filepath.Join(t.TempDir(), "config"), c.options...).CombinedOutput()
			if err != nil || strings.Count(string(out), "clusterrole.yaml") != 1 || !strings.Contains(string(out), c.role) {
				t.Errorf("%v, and applies not %s alone:\n%s", err, c.role, out)
			}
		})
	}
}

// kubeconfigScript is the script with a kubectl that grants the token.
func kubeconfigScript(t *testing.T, token, file string, options ...string) *exec.Cmd {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(fakeKubectl), 0o700); err != nil {
		t.Fatal(err)
	}
	options = append(options, "--duration", "1h", file)
	cmd := exec.CommandContext(t.Context(), deploy+"outside/kubeconfig.sh", options...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "TOKEN=" + token}
	return cmd
}

func runKubeconfigScript(t *testing.T, token, file string) {
	t.Helper()
	if out, err := kubeconfigScript(t, token, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// events are the masks of what inotify has seen of a name, in their order.
func events(t *testing.T, fd int, name string) (masks []uint32) {
	t.Helper()
	buffer := make([]byte, 64<<10)
	n, err := syscall.Read(fd, buffer)
	if err != nil {
		t.Fatal(err)
	}
	for rest := buffer[:n]; len(rest) > 0; {
		var event syscall.InotifyEvent
		if _, err := binary.Decode(rest, binary.NativeEndian, &event); err != nil {
			t.Fatal(err)
		}
		end := syscall.SizeofInotifyEvent + int(event.Len)
		if string(bytes.TrimRight(rest[syscall.SizeofInotifyEvent:end], "\x00")) == name {
			masks = append(masks, event.Mask)
		}
		rest = rest[end:]
	}
	return masks
}
