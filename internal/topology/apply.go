package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/audatex-relay/relay/internal/each"
	"github.com/audatex-relay/relay/internal/jsapi"
)

// State is how a stream compares with the table.
type State string

// The states.
const (
	StateOK      State = "ok"
	StateMissing State = "missing"
	StateDiffers State = "differs" // ours; Apply brings it to the table
	StateChanged State = "changed" // ours by its mark, but not in a way that Apply repairs: never touched
	// of a name of ours, but not ours: never touched. Or there is none, and another stream has its subjects
	StateForeign State = "foreign"
	StateUnknown State = "unknown" // has our prefix, but the table does not know it: left alone
)

// Finding is one stream compared with the table.
type Finding struct {
	Stream string // the bucket relay_orders is the stream KV_relay_orders
	State  State
	// Version of the table that last shaped it, 0 if it carries no mark.
	Version     int
	Differences []Difference
	Messages    uint64
	// Holder is the stream that has the subjects of one that is not there, "" for none.
	Holder string

	compared comparison
	wanted   jetstream.StreamConfig
}

var (
	// ErrRefused is in every error that means that this relay must not work on what is stored.
	// Waiting does not help; the error names what does.
	ErrRefused = errors.New("the store is refused")
	// ErrForeign reports that a stream of a name of ours is not ours.
	ErrForeign = errors.New("is not the relay's")
	// ErrNewer reports that what is stored is for a newer relay.
	ErrNewer = errors.New("is of a newer relay")
	// ErrRestoring reports that a backup is being restored, or was and did not end well.
	ErrRestoring = errors.New("a backup is being restored into the store")
)

// refusal is an error that wraps ErrRefused without its words.
type refusal struct{ error }

func refused(format string, a ...any) error { return refusal{fmt.Errorf(format, a...)} }

func (r refusal) Unwrap() error        { return r.error }
func (r refusal) Is(target error) bool { return target == ErrRefused }

// codeSubjectOverlap is JetStream's error code for subjects that another stream has (nats.go has no
// name for it).
const codeSubjectOverlap = 10065

// codeNoPeers is JetStream's error code for a cluster with too few servers to place a stream
// (nats.go has no name for it).
const codeNoPeers = 10005

// applyTurns bounds how often a stream is looked at again because somebody else created or changed
// it at the same moment.
const applyTurns = 5

// Check compares every stream with the table and lists those of our prefix that the table does not
// know. It writes nothing.
func (t Topology) Check(ctx context.Context, js jetstream.JetStream) ([]Finding, error) {
	var findings []Finding
	known := map[string]bool{t.RestoreSign(): true}
	for _, wanted := range t.tables() {
		f, err := t.find(ctx, js, wanted)
		if err != nil {
			return nil, err
		}
		known[wanted.Name] = true
		findings = append(findings, f)
	}
	var unknown []string
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		if !known[name] && strings.HasPrefix(strings.TrimPrefix(name, "KV_"), t.Prefix+"_") {
			unknown = append(unknown, name)
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		findings = append(findings, Finding{Stream: name, State: StateUnknown})
	}
	return findings, nil
}

// Apply creates what is missing and brings the rest to the table. It deletes nothing, changes
// nothing that is not ours, and keeps what an operator may set: placement, limits of size,
// compression, more replicas. Several relays may do it at once. It changes nothing if one of the
// streams is not ours (ErrForeign) or is no longer as the relay made it, or if what is stored is
// for a newer relay (ErrNewer). Errors of the server are returned as they are: the caller decides
// whether to try again.
func (t Topology) Apply(ctx context.Context, js jetstream.JetStream) error {
	mark, err := t.ReadMark(ctx, js)
	if err != nil {
		return err
	}
	if mark.revision != 0 {
		if err := mark.Refuse(t.Version()); err != nil {
			return err
		}
	}
	var findings []Finding
	for _, wanted := range t.tables() {
		f, err := t.find(ctx, js, wanted)
		if err != nil {
			return err
		}
		if err := f.Refuse(); err != nil {
			return err
		}
		findings = append(findings, f)
	}
	fresh := mark.fresh(findings)
	// what was found may be of a relay that began at the same moment: its mark was there before
	if !fresh && mark.revision == 0 {
		if mark, err = t.ReadMark(ctx, js); err != nil {
			return err
		}
	}
	mark = t.EffectiveMark(mark, findings)
	if err := mark.Refuse(t.Version()); err != nil {
		return err
	}
	for _, f := range findings {
		if err := t.applyOne(ctx, js, f); err != nil {
			return err
		}
	}
	if !fresh {
		return nil
	}
	// Of several relays that start on an empty server, each gets here, and one is first.
	if _, err := t.WriteMark(ctx, js, mark); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return err
	}
	return nil
}

// applyOne makes one stream match the table.
func (t Topology) applyOne(ctx context.Context, js jetstream.JetStream, f Finding) error {
	for range applyTurns {
		var set func() error
		switch f.State {
		case StateMissing:
			created := f.wanted
			created.Metadata = map[string]string{shapeKey: strconv.Itoa(t.Version())}
			set = func() error { _, err := js.CreateStream(ctx, created); return err }
		case StateDiffers:
			config, err := f.compared.merged(t.Version())
			if err != nil {
				return err
			}
			set = func() error { _, err := js.UpdateStream(ctx, config); return err }
		case StateOK, StateChanged, StateForeign, StateUnknown:
			return f.Refuse()
		}
		// Servers of a cluster that have met just now, or again, may not know yet what room the
		// others have.
		err := whileAnswered(ctx, codeNoPeers, set)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse), errors.Is(err, jetstream.ErrStreamNotFound):
			// Another relay was quicker, or an operator: see what is there now.
		case jsapi.Code(err) == codeSubjectOverlap:
			// Made since find looked, which names it the next time.
			return refused("create stream %s: its subjects %v belong to a stream that %w: "+
				"delete that one if nobody needs it, or choose another RELAY_NATS_PREFIX: %w",
				f.Stream, f.wanted.Subjects, ErrForeign, err)
		default:
			return fmt.Errorf("bring stream %s to what the relay needs: %w", f.Stream, err)
		}
		if f, err = t.find(ctx, js, f.wanted); err != nil {
			return err
		}
	}
	return fmt.Errorf("bring stream %s to what the relay needs: it changes all the time", f.Stream)
}

// find looks at one stream.
func (t Topology) find(ctx context.Context, js jetstream.JetStream, wanted jetstream.StreamConfig) (Finding, error) {
	f := Finding{Stream: wanted.Name, wanted: wanted}
	stream, err := js.Stream(ctx, wanted.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		f.State = StateMissing
		if f.Holder, err = holder(ctx, js, wanted); f.Holder != "" {
			f.State = StateForeign
			f.Differences = []Difference{
				{"subjects", fmt.Sprintf("held by stream %s", f.Holder), fmt.Sprintf("%q", wanted.Subjects)}}
		}
		return f, err
	}
	if err != nil {
		return f, fmt.Errorf("look at stream %s: %w", wanted.Name, err)
	}
	f.Messages = stream.CachedInfo().State.Msgs
	if f.compared, err = compare(stream.CachedInfo().Config, wanted); err != nil {
		return f, err
	}
	f.Version = f.compared.version
	switch version := t.Version(); {
	case len(f.compared.foreign) > 0 && f.Version > 0:
		f.State, f.Differences = StateChanged, f.compared.foreign
		if f.Version <= version { // what a newer relay has set is its own
			f.Differences = slices.Concat(f.Differences, f.compared.settable)
		}
	case len(f.compared.foreign) > 0:
		f.State, f.Differences = StateForeign, f.compared.foreign
	case f.Version > version:
		// The mark of the formats has let this relay in, so a newer one runs beside it: its shape
		// stays.
		f.State = StateOK
	case f.Version < version || len(f.compared.settable) > 0:
		f.State, f.Differences = StateDiffers, f.compared.settable
		if f.Version < version {
			f.Differences = append(f.Differences,
				Difference{"metadata." + shapeKey, versionText(f.Version), versionText(version)})
		}
	default:
		f.State = StateOK
	}
	return f, nil
}

// holder returns which other stream has subjects of one that is not there, "" for none. The server
// would not create the stream then.
func holder(ctx context.Context, js jetstream.JetStream, wanted jetstream.StreamConfig) (string, error) {
	for _, subject := range wanted.Subjects {
		names := js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
		held := ""
		for name := range names.Name() {
			if name != wanted.Name { // another relay may have made it just now
				held = name
			}
		}
		if err := names.Err(); err != nil {
			return "", fmt.Errorf("look for the subjects of stream %s: %w", wanted.Name, err)
		}
		if held != "" {
			return held, nil
		}
	}
	return "", nil
}

// Refuse returns the error of a stream that is not ours, or not as ours must be, nil for any
// other.
func (f Finding) Refuse() error {
	if f.State != StateForeign && f.State != StateChanged {
		return nil
	}
	if f.Holder != "" {
		return refused("stream %s cannot be made: its subjects %v belong to stream %s, which %w and is left alone. "+
			"Delete that one if nobody needs it, or choose another RELAY_NATS_PREFIX",
			f.Stream, f.wanted.Subjects, f.Holder, ErrForeign)
	}
	differences := each.Of(f.Differences, Difference.String)
	if f.State == StateChanged { // what it holds is the relay's: the error must not suggest deleting it
		return refused("stream %s is the relay's but was changed in a way that the relay does not mend by itself: %s. "+
			"Set it back and keep it: it holds what the relay has stored",
			f.Stream, strings.Join(differences, "; "))
	}
	return refused("stream %s %w and is left alone: %s. Delete or rename it if nobody needs it, or choose another "+
		"RELAY_NATS_PREFIX",
		f.Stream, ErrForeign, strings.Join(differences, "; "))
}

func versionText(n int) string {
	if n == 0 {
		return "unset"
	}
	return strconv.Quote(strconv.Itoa(n))
}
