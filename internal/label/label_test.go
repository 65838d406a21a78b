package label

import (
	"strings"
	"testing"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/slim"
	"metrics-server-prom/internal/store"
)

func TestAppend(t *testing.T) {
	for want, pairs := range map[string][]string{
		"":                        nil,
		`a="1"`:                   {"a", "1"},
		`a="1",b=""`:              {"a", "1", "b", ""},
		`a="\\\"\n"`:              {"a", "\\\"\n"},
		"a=\"\uFFFD\uFFFDé\"":     {"a", "\x00\xffé"},
		`node="n",container="c"`:  {"", `node="n"`, "container", "c"},
		`container="c",node="\""`: {"container", "c", "", `node="\""`},
	} {
		if got := string(Append(nil, pairs...)); got != want {
			t.Errorf("Append(%q) = %s, want %s", pairs, got, want)
		}
	}
}

func TestTheClusterComesLast(t *testing.T) {
	p := &slim.Pod{}
	p.Namespace, p.Name, p.Spec.NodeName, p.Status.PodIP = "ns", "p", "n", "1.2.3.4"
	p.Labels = map[string]string{"app": "web"}
	text, _ := Pods{Keys: []string{"app"}, Names: []string{"label_app"}}.Text(p)
	text.Shared, text.Own = (&kept.Pod{Containers: []kept.Container{{Name: "c", Image: "i",
		Status: kept.Status{Known: true}}}}).Pack()
	batch := &sample.Batch{Names: []string{"c"}, Samples: []sample.Sample{
		sample.New(&store.Object[sample.Text]{Value: text}, 0, 1)}}
	for name, of := range map[string]func(*Usage, []byte, int) []byte{
		`node="c"`:        (*Usage).Node,
		`id="/",node="c"`: (*Usage).Root,
		`node="n",pod="p",ip="1.2.3.4",container="c",namespace="ns",label_app="web"`:  (*Usage).Pod,
		`container="c",image="i",name="",namespace="ns",node="n",pod="p"`:             (*Usage).Container,
		`container="c",cpu="total",image="i",name="",namespace="ns",node="n",pod="p"`: (*Usage).ContainerCPU,
	} {
		for cluster, label := range map[string]string{"": "", "eu": `,cluster="eu"`, "a\"\n": `,cluster="a\"\n"`} {
			u := &Usage{Batch: batch, Cluster: Cluster(cluster)}
			if got, want := string(of(u, []byte("f{"), 0)), "f{"+name+label+"}"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}

func TestNamesAreThoseOfKubeStateMetrics(t *testing.T) {
	for keys, want := range map[string]string{
		"app,team":                   "label_app,label_team",
		"app.kubernetes.io/name":     "label_app_kubernetes_io_name",
		"podTemplateHash":            "label_pod_template_hash",
		"a-b,a.b":                    "label_a_b_conflict1,label_a_b_conflict2",
		"a-b,a.b,a_b_conflict1":      "label_a_b_conflict2,label_a_b_conflict3,label_a_b_conflict1",
		"a-b,a.b,a_b_conflict2,a_b":  "label_a_b_conflict1,label_a_b_conflict3,label_a_b_conflict2,label_a_b_conflict4",
		"some.very/long-name_withIt": "label_some_very_long_name_with_it",
	} {
		if got := strings.Join(Names(strings.Split(keys, ",")), ","); got != want {
			t.Errorf("Names(%s) = %s, want %s", keys, got, want)
		}
	}
}

func TestValue(t *testing.T) {
	const text = `a="1",name="a=\"2\",b=\"3",b="",c="\\"`
	for name, want := range map[string]string{"a": "1", "name": `a="2",b="3`, "b": "", "c": `\`, "d": "", "": ""} {
		if got := Value(text, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := Value("", "a"); got != "" {
		t.Errorf("of nothing it is %q", got)
	}
}

// FuzzEscape has each value come back from label text, but for what is no text.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "web", `"`, `\`, "\n", `\n`, `",b="`, "\x00\xff", "é"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		legible := func(s string) string { return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD") }
		text := string(Append(nil, "a", a, "b", b))
		if got := Value(text, "a"); got != legible(a) {
			t.Errorf("%q comes back as %q of %s", a, got, text)
		}
		if got := Value(text, "b"); got != legible(b) {
			t.Errorf("%q comes back as %q of %s", b, got, text)
		}
	})
}

func TestPartsOfAPodsText(t *testing.T) {
	pods := Pods{Keys: []string{"app", "team"}, Names: []string{"label_app", "label_team"}}
	for name, test := range map[string]struct{ node, namespace, app, wantNode, wantLabels, wantTail string }{
		"plain": {"n", "ns", "web", `node="n"`, `label_app="web"`, `",namespace="ns"`},
		"quotes and backslashes": {`n"\`, `n",x="\`, `",y="`, `node="n\"\\"`, `label_app="\",y=\""`,
			`",namespace="n\",x=\"\\"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := &slim.Pod{}
			p.Name, p.Namespace, p.Labels = `p",ip="`, test.namespace, map[string]string{"app": test.app, "other": "x"}
			p.Spec.NodeName = test.node
			text, _ := pods.Text(p)
			if got := NodeOf(text); got != test.wantNode {
				t.Errorf("node %s, want %s", got, test.wantNode)
			}
			if got := LabelsOf(text); got != test.wantLabels {
				t.Errorf("labels %s, want %s", got, test.wantLabels)
			}
			if got := quoted(text.Tail.Value(), 3); got != test.wantTail {
				t.Errorf("namespace %s, want %s", got, test.wantTail)
			}
			if got := quoted(text.Head, 1); got != `p\",ip=\""` {
				t.Errorf("pod %s", got)
			}
			if node, namespace, pod := NodeName(text), Namespace(text), PodName(text); node != test.node ||
				namespace != test.namespace || pod != p.Name {
				t.Errorf("the names are %q, %q, %q", node, namespace, pod)
			}
		})
	}
	if got := LabelsOf(pods.Unknown("ns", "p")); got != "" {
		t.Errorf("labels of a pod without any: %s", got)
	}
}
