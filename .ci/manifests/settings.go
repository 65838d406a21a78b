package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// exporterProgram takes the settings of the sets' exporters; "" for none.
var exporterProgram string

// checkSettings has the exporter itself take the arguments and the environment of a container: what it does not like
// it ends at with the code 2. Secrets of the set are there as files; of others nothing is known, so that settings that
// need them are left out.
func (s set) checkSettings(c *corev1.Container, volumes []corev1.Volume) error {
	if exporterProgram == "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "settings")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files := map[string]string{} // where a file is, by its name in the container
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 || volumes[i].Secret == nil {
			continue
		}
		for key, value := range s.secret(volumes[i].Secret.SecretName) {
			file := filepath.Join(dir, m.Name, key)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, value, 0o600)); err != nil {
				return err
			}
			files[path.Join(m.MountPath, key)] = file
		}
	}
	known := func(value string) (string, bool) {
		if !strings.HasPrefix(value, "/etc/") {
			return value, true
		}
		file, ok := files[value]
		return file, ok
	}
	// No cluster to read, and an address that nobody can listen on: it ends as soon as it has taken the settings. The URL
	// may be in a Secret that is not in the set.
	env := []string{"HOME=" + dir, "PUSH_URL=http://receiver"}
	args := []string{"--web.listen-address=192.0.2.1:9"}
	for _, arg := range c.Args {
		name, value, _ := strings.Cut(arg, "=")
		if value, ok := known(value); ok && name != "--web.listen-address" {
			args = append(args, strings.TrimSuffix(name+"="+value, "="))
		}
	}
	for _, e := range c.Env {
		value, ok := known(e.Value)
		if from := e.ValueFrom; from != nil && from.SecretKeyRef != nil {
			var data []byte
			data, ok = s.secret(from.SecretKeyRef.Name)[from.SecretKeyRef.Key]
			value = string(data)
		} else if from != nil {
			value = "default"
		}
		if ok {
			env = append(env, e.Name+"="+value)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	run := exec.CommandContext(ctx, exporterProgram, args...)
	run.Env = env
	var said bytes.Buffer
	run.Stderr = &said
	if err := run.Run(); err == nil || run.ProcessState.ExitCode() != 1 {
		return fmt.Errorf("the exporter does not take the settings (%v): %s", err, said.String())
	}
	return nil
}

// secret is the data of a Secret of the set; nil where that is not in it.
func (s set) secret(name string) map[string][]byte {
	for _, o := range s.objects {
		if o, ok := o.(*corev1.Secret); ok && o.Name == name {
			return o.Data
		}
	}
	return nil
}
