package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// ApplyManifests applies YAML files as `kubectl apply --server-side -f` does, and a folder with a kustomization as
// `kubectl apply --server-side -k` does. It returns the API server's warnings, Pod Security's among them.
func (c *ControlPlane) ApplyManifests(ctx context.Context, paths ...string) (warnings []string, err error) {
	for _, path := range paths {
		text, err := Manifests(path)
		if err != nil {
			return nil, err
		}
		more, err := c.ApplyYAML(ctx, text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		warnings = append(warnings, more...)
	}
	return warnings, nil
}

// Manifests is the text of a file, or what a folder's kustomization makes.
func Manifests(path string) ([]byte, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return os.ReadFile(path)
	}
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), path)
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", path, err)
	}
	return made.AsYaml()
}

// ApplyYAML applies the documents of a YAML text in their order; those without a namespace go to "default".
func (c *ControlPlane) ApplyYAML(ctx context.Context, text []byte) (warnings []string, err error) {
	collected := &warningList{}
	config := rest.CopyConfig(c.config)
	config.ContentConfig = rest.ContentConfig{} // the dynamic client speaks JSON
	config.WarningHandlerWithContext = collected
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Admin.Discovery()))

	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return collected.list, nil
		}
		if err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return nil, err
		}
		if len(object.Object) == 0 { // only comments
			continue
		}
		if err := applyObject(ctx, client, mapper, object); err != nil {
			return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

func applyObject(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper,
	object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		if object.GetNamespace() == "" {
			object.SetNamespace(metav1.NamespaceDefault)
		}
		resource = client.Resource(mapping.Resource).Namespace(object.GetNamespace())
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "e2e", Force: true})
	return err
}

// warningList collects the warnings of an API server.
type warningList struct {
	mutex sync.Mutex
	list  []string
}

func (w *warningList) HandleWarningHeaderWithContext(_ context.Context, _ int, _ string, text string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.list = append(w.list, text)
}
