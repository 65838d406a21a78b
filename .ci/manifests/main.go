// Command manifests checks rendered manifests as far as that can be done without a cluster: unknown and doubled fields
// by the types of each API, pods by the Pod Security level restricted, Knative Services by Knative's own validation,
// what is for Cloud Run by Google's published types, the compose file by the Compose specification, and whether the
// objects of a set fit together: what they refer to, the rights, the pages and how they are scraped, and that the
// exporter takes the settings. What a real API server says of them is for the end-to-end tests.
//
// Of dashboards it writes all expressions to a file of rules, which promtool can read.
//
// Each SET is what one command would apply: files and folders with a kustomization, joined by commas.
//
//	manifests [-exporter FILE] [-cloudrun FILE,FILE] [-compose FILE -env FILE] [-dashboards FOLDER -rules FILE] SET...
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	run "google.golang.org/api/run/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	flag.StringVar(&exporterProgram, "exporter", "", "the exporter, to try the settings with")
	cloudRun := flag.String("cloudrun", "", "Cloud Run Services and Jobs, separated by commas")
	compose := flag.String("compose", "", "a compose file")
	env := flag.String("env", "", "its environment file")
	dashboards := flag.String("dashboards", "", "a folder of Grafana's dashboards")
	rules := flag.String("rules", "", "where their expressions go")
	flag.Parse()

	var problems []error
	objects := 0
	for _, paths := range flag.Args() {
		s, err := readSet(strings.Split(paths, ","))
		if err == nil {
			objects += len(s.objects)
			err = errors.Join(s.check()...)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:\n%w", paths, err))
		}
	}
	if *cloudRun != "" {
		for _, file := range strings.Split(*cloudRun, ",") {
			problems = append(problems, checkCloudRun(file))
		}
	}
	if *compose != "" {
		problems = append(problems, checkCompose(*compose, *env))
	}
	if *dashboards != "" {
		problems = append(problems, checkDashboards(*dashboards, *rules))
	}
	if err := errors.Join(problems...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if objects == 0 {
		fmt.Fprintln(os.Stderr, "no objects in", flag.Args())
		os.Exit(1)
	}
	fmt.Printf("%d sets with %d objects\n", flag.NArg(), objects)
}

var decoder = func() runtime.Decoder {
	utilruntime.Must(monitoringv1.AddToScheme(scheme.Scheme))
	utilruntime.Must(servingv1.AddToScheme(scheme.Scheme))
	return serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
}()

func readSet(paths []string) (s set, err error) {
	var problems []error
	for _, path := range paths {
		text, err := manifest(path)
		if err != nil {
			return s, err
		}
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
		for n := 1; ; n++ {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return s, fmt.Errorf("%s: %w", path, err)
			}
			if blank(document) {
				continue
			}
			o, _, err := decoder.Decode(document, nil, nil)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s, document %d: %w", path, n, err))
				continue
			}
			s.objects = append(s.objects, o)
		}
	}
	return s, errors.Join(problems...)
}

// manifest is the text of a file, or what a folder's kustomization makes.
func manifest(path string) ([]byte, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return os.ReadFile(path)
	}
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), path)
	if err != nil {
		return nil, err
	}
	return made.AsYaml()
}

// blank is true of a document that has only comments, as templates leave behind.
func blank(document []byte) bool {
	for line := range bytes.Lines(document) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func checkCloudRun(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var kind struct{ Kind string }
	if err := json.Unmarshal(text, &kind); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var service run.Service
	var job run.Job
	var into any = &service
	if kind.Kind == "Job" {
		into = &job
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: not what Cloud Run's API knows: %w", file, err)
	}
	if kind.Kind == "Job" {
		task := job.Spec.Template.Spec.Template.Spec
		return errors.Join(checkCloudRunContainer(file, task.Containers[0], task.Volumes),
			checkCloudRunJob(file, task.Containers[0]))
	}
	spec := service.Spec.Template.Spec
	for _, c := range spec.Containers {
		for _, p := range []*run.Probe{c.StartupProbe, c.LivenessProbe} {
			if p == nil || p.HttpGet == nil {
				return fmt.Errorf("%s: a probe over HTTP is missing", file)
			}
			if strings.HasSuffix(p.HttpGet.Path, "z") {
				return fmt.Errorf("%s: Cloud Run reserves paths like %s", file, p.HttpGet.Path)
			}
		}
	}
	return checkCloudRunContainer(file, spec.Containers[0], spec.Volumes)
}

// checkCloudRunContainer looks at the volumes and the settings.
func checkCloudRunContainer(file string, c *run.Container, volumes []*run.Volume) error {
	same := &corev1.Container{Args: c.Args}
	for _, e := range c.Env {
		same.Env = append(same.Env, corev1.EnvVar{Name: e.Name, Value: e.Value})
	}
	pod := corev1.PodSpec{}
	for _, m := range c.VolumeMounts {
		same.VolumeMounts = append(same.VolumeMounts, corev1.VolumeMount{Name: m.Name, MountPath: m.MountPath})
	}
	for _, v := range volumes {
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: v.Name})
	}
	pod.Containers = []corev1.Container{*same}
	if err := errors.Join(errors.Join(mounts(pod)...), (set{}).checkSettings(same, nil)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func checkCloudRunJob(file string, c *run.Container) error {
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	if env["ONCE"] != "true" || env["PUSH_URL"] == "" {
		return fmt.Errorf("%s: a job has to push once", file)
	}
	return nil
}

// checkCompose reads the file as docker compose does, with env as its .env.
func checkCompose(file, env string) error {
	o, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(filepath.Dir(file)), cli.WithEnvFiles(env),
		cli.WithDotEnv, cli.WithInterpolation(true), cli.WithResolvedPaths(true), cli.WithConsistency(true))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	project, err := o.LoadProject(context.Background())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	target, err := project.GetService("target")
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if c := target.Environment["KUBE_CONTEXT"]; c == nil || *c != "minikube" {
		return fmt.Errorf("%s: KUBE_CONTEXT of %s does not reach the container", file, env)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	for _, v := range target.Volumes {
		// A folder: a file that is mounted by itself never becomes the one that replaces it.
		if v.Target == "/etc/kube" && v.Source == filepath.Join(home, ".kube") && v.ReadOnly {
			return nil
		}
	}
	return fmt.Errorf("%s: KUBE_CONFIG_DIR of %s is not mounted read-only at /etc/kube: %v", file, env, target.Volumes)
}
