package slim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"metrics-server-prom/internal/wire"
)

// Quantities are amounts by name, in the order of the names, each of which is there once.
type Quantities []Quantity

// Quantity is an amount of what Name says, such as cpu. Value is the text as it was sent, such as 100m, or 0 where that
// was empty. It is not verified.
type Quantity struct{ Name, Value string }

// maxUnsorted bounds the quantities that may be sent in another order than that of their names, for each of these moves
// others. API servers send any number in order.
const maxUnsorted = 1000

// set adds an amount, or replaces the one of that name.
func (q *Quantities) set(name, value string) error {
	i, found := slices.BinarySearchFunc(*q, name, func(q Quantity, name string) int {
		return strings.Compare(q.Name, name)
	})
	switch value = cmp.Or(value, "0"); {
	case found:
		(*q)[i].Value = value
	case i < len(*q) && len(*q) >= maxUnsorted:
		return fmt.Errorf("there are more than %d quantities, and they are not in the order of their names", maxUnsorted)
	default:
		*q = slices.Insert(*q, i, Quantity{name, value})
	}
	return nil
}

// unmarshalEntry adds the current field of a message, an entry of a map.
func (q *Quantities) unmarshalEntry(m *wire.Message) {
	name, value := m.Quantity()
	m.Check(q.set(string(name), string(value)))
}

// unmarshalQuantities reads a message whose fields 1 and 2 are maps of quantities.
func unmarshalQuantities(b []byte, message string, first, second *Quantities) error {
	m := wire.NewMessage(b, message)
	for m.Next() {
		switch m.Num {
		case 1:
			first.unmarshalEntry(m)
		case 2:
			second.unmarshalEntry(m)
		}
	}
	return m.Err()
}

// UnmarshalJSON adds what an object says. null is no quantities.
func (q *Quantities) UnmarshalJSON(b []byte) error {
	var values map[string]value
	if err := json.Unmarshal(b, &values); err != nil {
		return err
	}
	if values == nil {
		*q = nil
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := q.set(name, strings.TrimSpace(string(values[name]))); err != nil {
			return err
		}
	}
	return nil
}

// value is a quantity in JSON: a string, a number, or null for 0.
type value string

func (v *value) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, (*string)(v))
	}
	var number json.Number
	err := json.Unmarshal(b, &number)
	*v = value(number)
	return err
}
