package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Discovery answers in the format of Prometheus' http_sd_configs
// (https://prometheus.io/docs/prometheus/latest/http_sd/): this server is a target for each cluster, with the cluster's
// name as the parameter and the label cluster.
func Discovery(w http.ResponseWriter, r *http.Request, clusters []string) {
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for _, name := range clusters {
		groups = append(groups, group{[]string{r.Host}, map[string]string{"__param_cluster": name, "cluster": name}})
	}
	text, _ := json.Marshal(groups) // strings only
	Text(w, r, "application/json", append(text, '\n'))
}

// Asked returns the index of the name that a request asks for by its parameter cluster, -1 for none. Where there is no
// such name it answers the request, and ok is false.
func Asked(w http.ResponseWriter, r *http.Request, names []string) (i int, ok bool) {
	name := r.URL.Query().Get("cluster")
	if i = slices.Index(names, name); i < 0 && name != "" {
		http.Error(w, NoCluster(name, names).Error(), http.StatusNotFound)
		return -1, false
	}
	return i, true
}

// NoCluster says that none of the clusters has a name. Where there is but one without a name, names has that: "".
func NoCluster(name string, names []string) error {
	if slices.Equal(names, []string{""}) {
		return fmt.Errorf("there is no cluster %.50q; there is one, without a name: leave out cluster", name)
	}
	return fmt.Errorf("there is no cluster %.50q; there are: %s", name, strings.Join(names, ", "))
}
