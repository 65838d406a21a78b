package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

// set is what one command applies.
type set struct {
	objects []runtime.Object
}

// describe names an object as kubectl does.
func describe(o runtime.Object) string {
	m, _ := meta.Accessor(o)
	return fmt.Sprintf("%s %s/%s", o.GetObjectKind().GroupVersionKind().Kind, m.GetNamespace(), m.GetName())
}

var restricted = func() policy.Evaluator {
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	return e
}()

func (s set) check() (problems []error) {
	seen := map[string]bool{}
	for _, o := range s.objects {
		name := describe(o)
		if seen[name] {
			problems = append(problems, fmt.Errorf("%s comes twice", name))
		}
		seen[name] = true
		if err := s.checkObject(o); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	return problems
}

func (s set) checkObject(o runtime.Object) error {
	switch o := o.(type) {
	case *appsv1.Deployment:
		if err := selects(o.Spec.Selector, o.Spec.Template.Labels); err != nil {
			return err
		}
		return s.checkPod(o.Namespace, o.Spec.Template.ObjectMeta, o.Spec.Template.Spec)
	case *batchv1.CronJob:
		return s.checkCronJob(o)
	case *servingv1.Service:
		o.SetDefaults(context.Background())
		if err := o.Validate(context.Background()); err != nil {
			return err
		}
		return s.checkPod(o.Namespace, o.Spec.Template.ObjectMeta, o.Spec.Template.Spec.PodSpec)
	case *corev1.Service:
		pod, err := s.pod(o.Namespace, &metav1.LabelSelector{MatchLabels: o.Spec.Selector})
		if err != nil {
			return err
		}
		for _, p := range o.Spec.Ports {
			if err := hasPort(pod, p.TargetPort.StrVal); err != nil {
				return err
			}
		}
	case *networkingv1.NetworkPolicy:
		pod, err := s.pod(o.Namespace, &o.Spec.PodSelector)
		if err != nil {
			return err
		}
		if len(pod.Containers[0].Ports) == 0 && len(o.Spec.Ingress) == 0 {
			return nil
		}
		return hasPort(pod, o.Spec.Ingress[0].Ports[0].Port.StrVal)
	case *monitoringv1.PodMonitor:
		pod, err := s.pod(watched(o.Namespace, o.Spec.NamespaceSelector), &o.Spec.Selector)
		if err != nil {
			return err
		}
		endpoints := podEndpointsOf(o)
		for _, e := range endpoints {
			if err := hasPort(pod, e.port); err != nil {
				return err
			}
		}
		return s.checkEndpoints(endpoints)
	case *monitoringv1.ServiceMonitor:
		return s.checkServiceMonitor(o)
	case *rbacv1.Role:
		return s.checkRights("Role", o.Rules)
	case *rbacv1.ClusterRole:
		return s.checkRights("ClusterRole", o.Rules)
	case *rbacv1.RoleBinding:
		return s.checkBinding(o.RoleRef, o.Namespace, o.Subjects)
	case *rbacv1.ClusterRoleBinding:
		return s.checkBinding(o.RoleRef, "", o.Subjects)
	}
	return nil
}

func (s set) checkPod(namespace string, m metav1.ObjectMeta, spec corev1.PodSpec) error {
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	var problems []error
	for _, r := range restricted.EvaluatePod(level, &m, &spec) {
		if !r.Allowed {
			err := fmt.Errorf("refused by Pod Security restricted: %s: %s", r.ForbiddenReason, r.ForbiddenDetail)
			problems = append(problems, err)
		}
	}
	if !s.has("ServiceAccount", namespace, spec.ServiceAccountName) {
		problems = append(problems, fmt.Errorf("no ServiceAccount %s/%s in the set", namespace, spec.ServiceAccountName))
	}
	for _, c := range spec.Containers {
		if !*c.SecurityContext.ReadOnlyRootFilesystem {
			problems = append(problems, fmt.Errorf("container %s may write to its root", c.Name))
		}
	}
	problems = append(problems, mounts(spec)...)
	problems = append(problems, s.checkSettings(&spec.Containers[0], spec.Volumes))
	return errors.Join(problems...)
}

// mounts looks for volumes that are not mounted, and the other way round.
func mounts(spec corev1.PodSpec) (problems []error) {
	mounted := map[string]bool{}
	for _, c := range spec.Containers {
		for _, v := range c.VolumeMounts {
			mounted[v.Name] = true
		}
	}
	for _, v := range spec.Volumes {
		if !mounted[v.Name] {
			problems = append(problems, fmt.Errorf("volume %s is not mounted", v.Name))
		}
		delete(mounted, v.Name)
	}
	for v := range mounted {
		problems = append(problems, fmt.Errorf("there is no volume %s to mount", v))
	}
	return problems
}

// checkCronJob looks at a CronJob, whose exporter has to push once and end.
func (s set) checkCronJob(o *batchv1.CronJob) error {
	pod := o.Spec.JobTemplate.Spec.Template
	problems := []error{s.checkPod(o.Namespace, pod.ObjectMeta, pod.Spec)}
	if o.Spec.ConcurrencyPolicy != batchv1.ForbidConcurrent {
		problems = append(problems, errors.New("two at a time would push the same series"))
	}
	if !isOnce(&pod.Spec.Containers[0]) {
		problems = append(problems, errors.New("the exporter does not end"))
	}
	if !pushes(&pod.Spec.Containers[0]) {
		problems = append(problems, errors.New("the exporter pushes nowhere"))
	}
	return errors.Join(problems...)
}

// hasSetting tells whether a container has a setting, by its flag and value or its variable.
func hasSetting(c *corev1.Container, flag, variable string) bool {
	return slices.ContainsFunc(c.Args, func(arg string) bool { return arg == flag || strings.HasPrefix(arg, flag+"=") }) ||
		slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == variable })
}

func isOnce(c *corev1.Container) bool { return hasSetting(c, "--once", "ONCE") }
func pushes(c *corev1.Container) bool { return hasSetting(c, "--push.url", "PUSH_URL") }

// watched is the namespace that a monitor looks in: the one that it names, or its own.
func watched(own string, by monitoringv1.NamespaceSelector) string {
	if len(by.MatchNames) == 1 {
		return by.MatchNames[0]
	}
	return own
}

func (s set) checkServiceMonitor(m *monitoringv1.ServiceMonitor) error {
	namespace := watched(m.Namespace, m.Spec.NamespaceSelector)
	for _, o := range s.objects {
		service, ok := o.(*corev1.Service)
		if !ok || service.Namespace != namespace || selects(&m.Spec.Selector, service.Labels) != nil {
			continue
		}
		endpoints := endpointsOf(m)
		for _, e := range endpoints {
			if e.port != service.Spec.Ports[0].Name {
				return fmt.Errorf("%s has no port %q", describe(service), e.port)
			}
		}
		return s.checkEndpoints(endpoints)
	}
	return errors.New("selects no Service of the set")
}

func (s set) checkBinding(role rbacv1.RoleRef, namespace string, subjects []rbacv1.Subject) error {
	if !s.has(role.Kind, namespace, role.Name) {
		return fmt.Errorf("no %s %s/%s in the set", role.Kind, namespace, role.Name)
	}
	for _, subject := range subjects {
		if !s.has(subject.Kind, subject.Namespace, subject.Name) {
			return fmt.Errorf("no %s %s/%s in the set", subject.Kind, subject.Namespace, subject.Name)
		}
	}
	return nil
}

func (s set) has(kind, namespace, name string) bool {
	for _, o := range s.objects {
		m, _ := meta.Accessor(o)
		if o.GetObjectKind().GroupVersionKind().Kind == kind && m.GetNamespace() == namespace && m.GetName() == name {
			return true
		}
	}
	return false
}

// pod finds the pod template of a Deployment or CronJob of the set by its labels.
func (s set) pod(namespace string, by *metav1.LabelSelector) (corev1.PodSpec, error) {
	for _, o := range s.objects {
		var template corev1.PodTemplateSpec
		switch o := o.(type) {
		case *appsv1.Deployment:
			template = o.Spec.Template
		case *batchv1.CronJob:
			template = o.Spec.JobTemplate.Spec.Template
		default:
			continue
		}
		if m, _ := meta.Accessor(o); m.GetNamespace() == namespace && selects(by, template.Labels) == nil {
			return template.Spec, nil
		}
	}
	return corev1.PodSpec{}, errors.New("selects no pod of the set")
}

func hasPort(pod corev1.PodSpec, name string) error {
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return nil
			}
		}
	}
	return fmt.Errorf("no container has a port named %q", name)
}

func selects(by *metav1.LabelSelector, given map[string]string) error {
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		return err
	}
	if selector.Empty() || !selector.Matches(labels.Set(given)) {
		return fmt.Errorf("selector %q does not match %v", selector, given)
	}
	return nil
}
