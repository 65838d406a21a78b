// Package kept packs what is kept of a pod, beside its label text, into two strings: one that all pods of a workload
// have in common and that is held once, and one of some words that the pod has alone. Strings without pointers in them
// cost the garbage collector nothing, and two states of a pod are compared with ==.
package kept

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/netip"
	"strings"
	"unique"
	"unsafe"
)

// Pod is what is kept of a pod. Its names are those of the API (k8s.io/api/core/v1).
type Pod struct {
	UID, Phase, HostIP, PodIP string
	Ready                     string // the status of the condition Ready; "" where there is none
	Workload
	Containers []Container // those of the spec first, then init and ephemeral ones; each name once per kind

	arena []byte // holds what Unpack had to spell out
}

// Workload is what the pods of a workload have in common, but for their containers.
type Workload struct {
	QOSClass, PriorityClass string
	HostNetwork             bool
	Owners                  []Owner
	// HasTemplateHash tells that the pod's label pod-template-hash is the end of its ReplicaSet's name, by which
	// Deployments name theirs.
	HasTemplateHash bool
}

// Owner is one of metadata.ownerReferences. Where no more is kept than what pods share, its name may be left out, see
// state.KeepWorkload.
type Owner struct {
	Kind, Name string
	Controller bool
}

// Kind is in which list of the spec a container is.
type Kind uint8

// The kinds of containers.
const (
	Regular Kind = iota
	Init
	Ephemeral
)

// State is which of the states of a container's status is set.
type State uint8

// The states of a container.
const (
	None State = iota // there is none, or no status at all
	Waiting
	Running
	Terminated
)

// Container is a container of the spec and its status.
type Container struct {
	Kind             Kind
	Name, Image      string // of the spec
	Requests, Limits []Quantity
	Status
}

// Status is what is kept of a container's status.
type Status struct {
	Known              bool // whether there is a status
	Image, ImageID, ID string
	Ready              bool
	Restarts           int32
	State              State
	Started            int64  // Unix seconds since when it has been running, or had until it was terminated; 0 for none
	Reason             string // why it is waiting or was terminated
	LastTerminated     bool   // whether lastState is terminated,
	LastReason         string // and why
}

// Quantity is the amount of a resource in cores, bytes or pieces.
type Quantity struct {
	Name  string
	Value float64
}

// Pack packs a pod. Unpack gives it back.
func (p *Pod) Pack() (shared unique.Handle[string], own string) {
	var s, o packer
	s.text(p.QOSClass)
	s.text(p.PriorityClass)
	s.flags(p.HostNetwork, p.HasTemplateHash)
	s.number(int64(len(p.Owners)))
	for _, owner := range p.Owners {
		s.text(owner.Kind)
		s.text(owner.Name)
		s.flags(owner.Controller)
	}
	o.text(p.UID)
	o.text(p.Phase)
	o.text(p.HostIP)
	o.text(p.PodIP)
	o.text(p.Ready)
	s.number(int64(len(p.Containers)))
	for i := range p.Containers {
		c := &p.Containers[i]
		scheme, id, _ := strings.Cut(c.ID, "://")
		if scheme == "" || id == "" {
			scheme, id = "", c.ID
		}
		s.number(int64(c.Kind))
		s.text(c.Name)
		s.text(c.Image)
		s.textAfter(c.Image, c.Status.Image)
		s.textAfter(c.Status.Image, c.ImageID)
		s.text(scheme)
		s.quantities(c.Requests)
		s.quantities(c.Limits)
		o.flags(c.Known, c.Ready, c.LastTerminated, c.State&1 != 0, c.State&2 != 0, c.Reason != "", c.LastReason != "")
		if !c.Known {
			continue
		}
		o.text(id)
		o.number(int64(c.Restarts))
		o.number(c.Started)
		if c.Reason != "" {
			o.text(c.Reason)
		}
		if c.LastReason != "" {
			o.text(c.LastReason)
		}
	}
	return unique.Make(string(s)), string(o)
}

// Unpack makes p what was packed. Its strings and slices are valid until the next call.
func (p *Pod) Unpack(shared unique.Handle[string], own string) {
	p.unpackContainers(p.UnpackWorkload(shared), own)
}

// UnpackWorkload makes p's Workload what was packed, and nothing else of it. It returns the rest of what is shared, for
// UnpackContainers. Its strings and slices are valid until the next call of it or Unpack.
func (p *Pod) UnpackWorkload(shared unique.Handle[string]) (containers string) {
	p.arena = p.arena[:0]
	s := unpacker{shared.Value(), &p.arena}
	p.QOSClass, p.PriorityClass = s.text(), s.text()
	flags := s.byte()
	p.HostNetwork, p.HasTemplateHash = flags&1 != 0, flags&2 != 0
	p.Owners = resize(p.Owners, int(s.number()))
	for i := range p.Owners {
		p.Owners[i] = Owner{s.text(), s.text(), s.byte() != 0}
	}
	return s.rest
}

// UnpackContainers makes p's Containers what was packed, without anything of their status. They are the same for the
// same text.
func (p *Pod) UnpackContainers(containers string) { p.unpackContainers(containers, "") }

func (p *Pod) unpackContainers(shared, own string) {
	s, o := unpacker{shared, &p.arena}, unpacker{own, &p.arena}
	if own != "" {
		p.UID, p.Phase, p.HostIP, p.PodIP, p.Ready = o.text(), o.text(), o.text(), o.text(), o.text()
	}
	p.Containers = resize(p.Containers, int(s.number()))
	for i := range p.Containers {
		c := &p.Containers[i]
		requests, limits := c.Requests, c.Limits
		*c = Container{Kind: Kind(s.number()), Name: s.text(), Image: s.text()}
		c.Status.Image = s.textAfter(c.Image)
		c.ImageID = s.textAfter(c.Status.Image)
		scheme := s.text()
		c.Requests, c.Limits = s.quantities(requests), s.quantities(limits)
		if own == "" {
			continue
		}
		flags := o.byte()
		if c.Known = flags&1 != 0; !c.Known {
			continue
		}
		c.Ready, c.LastTerminated, c.State = flags&2 != 0, flags&4 != 0, State(flags>>3&3)
		c.ID = o.text()
		if scheme != "" {
			c.ID = o.join(scheme, "://", c.ID)
		}
		c.Restarts, c.Started = int32(o.number()), o.number()
		if flags&32 != 0 {
			c.Reason = o.text()
		}
		if flags&64 != 0 {
			c.LastReason = o.text()
		}
	}
}

// Container returns the container that usage of that name belongs to: one that is running or, where none is, any that
// has a status. metrics-server reports containers of all kinds, and a name is in one list of the spec only.
func (p *Pod) Container(name string) *Container {
	for i := range p.Containers {
		if c := &p.Containers[i]; c.Known && c.Name == name {
			return c
		}
	}
	return nil
}

func resize[T any](s []T, n int) []T {
	if n > cap(s) {
		return append(s[:cap(s)], make([]T, n-cap(s))...)
	}
	return s[:n]
}

// packer appends values to a string. What reads them back knows their order.
type packer []byte

func (p *packer) number(n int64) { *p = binary.AppendVarint(*p, n) }

func (p *packer) flags(flags ...bool) {
	b := byte(0)
	for i, flag := range flags {
		if flag {
			b |= 1 << i
		}
	}
	*p = append(*p, b)
}

// The forms of a text, in the lowest bits of the number that it begins with.
const (
	plain    = iota // the number is its length
	word            // it is one of words, and the number which
	hexTail         // it ends in the hexadecimal digits of a digest, packed as bytes; the number is what is before them
	uuid            // 16 bytes
	ipv4            // 4 bytes
	formBits = 3
)

// words are the texts that nearly all pods have.
var words = []string{"", "Running", "Pending", "Succeeded", "Failed", "Unknown", "True", "False", "cpu", "memory",
	"ephemeral-storage", "containerd", "cri-o", "docker", "Burstable", "BestEffort", "Guaranteed", "ReplicaSet",
	"StatefulSet", "DaemonSet", "Job", "Completed", "Error", "OOMKilled", "CrashLoopBackOff", "ContainerCreating"}

var wordOf = func() map[string]uint64 {
	index := map[string]uint64{}
	for i, w := range words {
		index[w] = uint64(i)
	}
	return index
}()

// minDigest is from how many digits on a run of them is packed as bytes.
const minDigest = 32

func (p *packer) text(s string) {
	head := func(n uint64, form uint64) { *p = binary.AppendUvarint(*p, n<<formBits|form) }
	if i, known := wordOf[s]; known {
		head(i, word)
		return
	}
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
		if hexDigits(digits) == len(digits) {
			head(0, uuid)
			*p = appendHex(*p, digits)
			return
		}
	}
	if len(s) <= len("255.255.255.255") && '0' <= s[0] && s[0] <= '9' {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() {
			b := ip.As4()
			head(0, ipv4)
			*p = append(*p, b[:]...)
			return
		}
	}
	if n := hexDigits(s) &^ 1; n >= minDigest {
		head(uint64(len(s)-n), hexTail)
		*p = append(*p, s[:len(s)-n]...)
		*p = binary.AppendUvarint(*p, uint64(n/2))
		*p = appendHex(*p, s[len(s)-n:])
		return
	}
	head(uint64(len(s)), plain)
	*p = append(*p, s...)
}

// textAfter packs a text that may begin as another one does.
func (p *packer) textAfter(before, s string) {
	n := 0
	for n < min(len(before), len(s)) && before[n] == s[n] {
		n++
	}
	p.number(int64(n))
	p.text(s[n:])
}

// hexDigits is how many lower-case hexadecimal digits s ends in.
func hexDigits(s string) (n int) {
	for n < len(s) && strings.IndexByte("0123456789abcdef", s[len(s)-1-n]) >= 0 {
		n++
	}
	return n
}

func appendHex(to []byte, digits string) []byte {
	to, _ = hex.AppendDecode(to, []byte(digits))
	return to
}

func (p *packer) quantities(all []Quantity) {
	p.number(int64(len(all)))
	for _, q := range all {
		p.text(q.Name)
		*p = binary.LittleEndian.AppendUint64(*p, math.Float64bits(q.Value))
	}
}

// unpacker reads what a packer has written.
type unpacker struct {
	rest  string
	arena *[]byte
}

func (u *unpacker) byte() byte { return u.take(1)[0] }

func (u *unpacker) take(n int) string {
	taken := u.rest[:n]
	u.rest = u.rest[n:]
	return taken
}

func (u *unpacker) number() int64 {
	n, size := binary.Varint(u.bytes())
	u.take(size)
	return n
}

func (u *unpacker) uvarint() uint64 {
	n, size := binary.Uvarint(u.bytes())
	u.take(size)
	return n
}

// bytes is what is left of the string, not to be changed.
func (u *unpacker) bytes() []byte { return unsafe.Slice(unsafe.StringData(u.rest), len(u.rest)) }

func (u *unpacker) text() string {
	head := u.uvarint()
	n := int(head >> formBits)
	switch head & (1<<formBits - 1) {
	case word:
		return words[n]
	case uuid:
		b := u.bytes()
		u.take(16)
		return u.spell(func(to []byte) []byte {
			to = append(hex.AppendEncode(to, b[:4]), '-')
			to = append(hex.AppendEncode(to, b[4:6]), '-')
			to = append(hex.AppendEncode(to, b[6:8]), '-')
			to = append(hex.AppendEncode(to, b[8:10]), '-')
			return hex.AppendEncode(to, b[10:16])
		})
	case ipv4:
		ip := netip.AddrFrom4([4]byte(u.bytes()))
		u.take(4)
		return u.spell(ip.AppendTo)
	case hexTail:
		prefix := u.take(n)
		size := int(u.uvarint())
		digest := u.bytes()[:size]
		u.take(size)
		return u.spell(func(to []byte) []byte { return hex.AppendEncode(append(to, prefix...), digest) })
	default:
		return u.take(n)
	}
}

func (u *unpacker) textAfter(before string) string {
	switch n, rest := u.number(), u.text(); {
	case n == 0:
		return rest
	case rest == "":
		return before[:n]
	default:
		return u.join(before[:n], "", rest)
	}
}

func (u *unpacker) join(a, b, c string) string {
	return u.spell(func(to []byte) []byte { return append(append(append(to, a...), b...), c...) })
}

// spell returns what f appends as a string that lies in the arena.
func (u *unpacker) spell(f func([]byte) []byte) string {
	begin := len(*u.arena)
	*u.arena = f(*u.arena)
	b := (*u.arena)[begin:]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func (u *unpacker) quantities(into []Quantity) []Quantity {
	into = resize(into, int(u.number()))
	for i := range into {
		into[i] = Quantity{u.text(), math.Float64frombits(binary.LittleEndian.Uint64(u.bytes()))}
		u.take(8)
	}
	return into
}
