package state

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"unique"

	"metrics-server-prom/internal/kept"
	"metrics-server-prom/internal/sample"
	"metrics-server-prom/internal/store"
)

// podOf is a pod of that owner, as a store has it.
func podOf(name, kind, owner string, hash bool) store.Entry[sample.Text] {
	k := kept.Pod{Workload: kept.Workload{HasTemplateHash: hash,
		Owners: []kept.Owner{{Kind: kind, Name: owner, Controller: true}}}}
	text := sample.Text{Node: unique.Make(`node="n",pod="`), Tail: unique.Make(`",namespace="ns"}`)}
	text.Shared, text.Own = k.Pack()
	return store.Entry[sample.Text]{Key: store.Key{Namespace: "ns", Name: name},
		Object: &store.Object[sample.Text]{Value: text}}
}

func TestOwnersAreGuessedFromPods(t *testing.T) {
	leaves := []*store.Leaf[sample.Text]{
		{Entries: []store.Entry[sample.Text]{podOf("a", "ReplicaSet", "web-5d4f", true),
			podOf("b", "ReplicaSet", "web-5d4f", true), podOf("c", "ReplicaSet", "bare", false),
			podOf("d", "StatefulSet", "db", false)}},
		{Entries: []store.Entry[sample.Text]{podOf("e", "ReplicaSet", "web-5d4f", true),
			podOf("f", "Job", "backup-29012345", false), podOf("g", "Job", "once", false),
			podOf("h", "Job", "import-2024", false), podOf("i", "Job", "-29012345", false)}},
	}
	for resource, want := range map[string]string{
		"replicasets": `
			replicaset{namespace="ns",replicaset="bare",owner_kind="",owner_name="",owner_is_controller=""} 1
			replicaset{namespace="ns",replicaset="web-5d4f",owner_kind="Deployment",owner_name="web",owner_is_controller="true"} 1`,
		"jobs": `
			replicaset{namespace="ns",job_name="-29012345",owner_kind="",owner_name="",owner_is_controller=""} 1
			replicaset{namespace="ns",job_name="backup-29012345",owner_kind="CronJob",owner_name="backup",owner_is_controller="true"} 1
			replicaset{namespace="ns",job_name="import-2024",owner_kind="",owner_name="",owner_is_controller=""} 1
			replicaset{namespace="ns",job_name="once",owner_kind="",owner_name="",owner_is_controller=""} 1`,
	} {
		t.Run(resource, func(t *testing.T) {
			for i := range Resources {
				if r := &Resources[i]; r.Name == resource {
					g := NewGuess(r, uint8(len(families)-1), newRenderer())
					parts := g.Parts(leaves, []string{""})
					compare(t, text(parts[len(families)-1]), want)
					if again := g.Parts(leaves, []string{""}); &again[0] != &parts[0] {
						t.Error("rendered again, though no pod has changed")
					}
					if other := g.Parts(leaves[1:], []string{""}); strings.Contains(text(other[len(families)-1]), "bare") {
						t.Error("the owner of pods that are gone is still there")
					}
					if other := g.Parts(leaves, []string{"other"}); len(other[len(families)-1]) != 0 {
						t.Error("owners of another namespace")
					}
				}
			}
		})
	}
}

// TestOwnersAreGuessedForAPushDuringAScrape: both unpack the same pods, and -race sees whether into the same memory.
func TestOwnersAreGuessedForAPushDuringAScrape(t *testing.T) {
	leaf := &store.Leaf[sample.Text]{}
	for i := range 500 {
		owner := fmt.Sprintf("web%d-5d4f", i)
		leaf.Entries = append(leaf.Entries, podOf(fmt.Sprint("p", i), []string{"ReplicaSet", "DaemonSet"}[i%2], owner, true))
	}
	for i := range Resources {
		if r := &Resources[i]; r.Name == "replicasets" {
			g := NewGuess(r, uint8(len(families)-1), newRenderer())
			var running sync.WaitGroup
			running.Go(func() {
				for range 20 {
					if n := len(g.Parts([]*store.Leaf[sample.Text]{leaf}, []string{""})[len(families)-1]); n != 1 {
						t.Errorf("%d parts", n)
					}
					g.Release()
				}
			})
			for range 2 {
				running.Go(func() {
					for range 20 {
						if n := len(g.Entries([]*store.Leaf[sample.Text]{leaf}, []string{""})); n != 250 {
							t.Errorf("the owners of %d ReplicaSets", n)
						}
					}
				})
			}
			running.Wait()
		}
	}
}
