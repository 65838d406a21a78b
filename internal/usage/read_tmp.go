package usage

import "metrics-server-prom/internal/sample"

var tmpShown = map[*List]*sample.Batch{}

func (l *List) Read(f func(*sample.Batch)) {
	if b := tmpShown[l]; b != nil {
		f(b)
	}
}
