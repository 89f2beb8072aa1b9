package relay

import (
	"math"
	"strconv"
	"time"
)

// recordBytes is about as much as one record takes.
const recordBytes = 512

// Encode returns the batch as Encode would. Recording attempts is the largest part of what the relay encodes for each
// delivery, so the records are written field by field, without reflection.
func (b AttemptBatch) Encode() ([]byte, error) {
	records := b.Records
	b.Records = []AttemptRecord{}
	head, err := Encode(b) // ends with []}
	if err != nil || len(records) == 0 {
		return head, err
	}
	out := make([]byte, 0, len(head)+recordBytes*len(records))
	out = append(out, head[:len(head)-len("]}")]...)
	for i := range records {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = records[i].appendTo(out); err != nil {
			return nil, err
		}
	}
	return append(out, "]}"...), nil
}

// appendTo appends the record in the order of its fields.
func (r *AttemptRecord) appendTo(out []byte) ([]byte, error) {
	o := objectWriter{out: append(out, '{')}
	o.text("event", r.Event)
	o.whole("seq", int64(r.Seq)) // positions are below 2^63
	o.text("order", r.Order)
	o.textIfAny("site", r.Site)
	o.textIfAny("type", r.Type)
	o.whole("number", int64(r.Number))
	o.time("at", r.At)
	o.numberIfAny("durationMillis", r.DurationMillis)
	o.textIfAny("outcome", r.Outcome)
	o.wholeIfAny("status", int64(r.Status))
	o.textIfAny("error", r.Error)
	o.textIfAny("excerpt", r.Excerpt)
	if r.Phases != (Phases{}) {
		o.name("phases")
		phases := objectWriter{out: append(o.out, '{'), err: o.err}
		phases.numberIfAny("dns", r.Phases.DNS)
		phases.numberIfAny("connect", r.Phases.Connect)
		phases.numberIfAny("tls", r.Phases.TLS)
		phases.numberIfAny("firstByte", r.Phases.FirstByte)
		phases.out = append(phases.out, '}')
		o.out, o.err = phases.out, phases.err
	}
	if r.Remote.IsValid() {
		o.name("remote")
		o.out = append(r.Remote.AppendTo(append(o.out, '"')), '"')
	}
	o.textIfAny("headers", r.Headers)
	o.wholeIfAny("bytes", int64(r.Bytes))
	o.trueIfSo("probe", r.Probe)
	if r.NextAttemptAt != nil {
		o.time("nextAttemptAt", *r.NextAttemptAt)
	}
	o.textIfAny("closing", string(r.Closing))
	o.trueIfSo("late", r.Late)
	o.textIfAny("reason", r.Reason)
	o.textIfAny("replay", r.Replay)
	o.textIfAny("replayed", string(r.Replayed))
	return append(o.out, '}'), o.err
}

// objectWriter is a JSON object that is being written behind its opening brace.
type objectWriter struct {
	out []byte
	err error
}

// name begins a member.
func (o *objectWriter) name(name string) {
	if o.out[len(o.out)-1] != '{' {
		o.out = append(o.out, ',')
	}
	o.out = append(append(append(o.out, '"'), name...), '"', ':')
}

func (o *objectWriter) text(name, value string) {
	o.name(name)
	start := len(o.out)
	o.out = append(o.out, '"')
	from := 0
	for i := range len(value) {
		c := value[i]
		if c >= ' ' && c <= '~' && c != '"' && c != '\\' {
			continue
		}
		o.out = append(o.out, value[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			o.out = append(o.out, '\\', c)
		case '\n': // between the headers of a response
			o.out = append(o.out, '\\', 'n')
		default:
			o.out = o.out[:start]
			o.other(value)
			return
		}
	}
	o.out = append(append(o.out, value[from:]...), '"')
}

func (o *objectWriter) textIfAny(name, value string) {
	if value != "" {
		o.text(name, value)
	}
}

func (o *objectWriter) whole(name string, value int64) {
	o.name(name)
	o.out = strconv.AppendInt(o.out, value, 10)
}

func (o *objectWriter) wholeIfAny(name string, value int64) {
	if value != 0 {
		o.whole(name, value)
	}
}

func (o *objectWriter) numberIfAny(name string, value float64) {
	switch size := math.Abs(value); {
	case size == 0:
	case size >= 1e-6 && size < 1e21:
		o.name(name)
		o.out = strconv.AppendFloat(o.out, value, 'f', -1, 64)
	default: // with an exponent, or no number
		o.name(name)
		o.other(value)
	}
}

func (o *objectWriter) trueIfSo(name string, value bool) {
	if value {
		o.name(name)
		o.out = append(o.out, "true"...)
	}
}

func (o *objectWriter) time(name string, value time.Time) {
	o.name(name)
	if y := value.Year(); y < 0 || y > 9999 || value.Location() != time.UTC {
		o.other(value)
		return
	}
	o.out = append(value.AppendFormat(append(o.out, '"'), time.RFC3339Nano), '"')
}

// other writes what is rare as encoding/json does.
func (o *objectWriter) other(value any) {
	raw, err := Encode(value)
	if err != nil && o.err == nil {
		o.err = err
	}
	o.out = append(o.out, raw...)
}
