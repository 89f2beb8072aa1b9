package quota

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
)

func TestTheReplicasPartsAreTheWholeAllowance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := float64(rapid.IntRange(1, 100_000).Draw(t, "rate"))
		own := rapid.SliceOfN(rapid.IntRange(0, 5_000), 1, 100).Draw(t, "connections of each replica")
		all := 0
		for _, n := range own {
			all += n
		}
		sum, saved := 0.0, 0
		for _, n := range own {
			part := quotaShare(rate, n, all, len(own))
			if part <= 0 || part < 1 && len(own) <= int(rate) {
				t.Fatalf("a replica may ask for %f a minute", part)
			}
			sum += part
			saved += burst(rate, part, len(own))
		}
		if math.Abs(sum-rate) > rate/1e9 {
			t.Fatalf("the parts are %f of %f", sum, rate)
		}
		if saved > max(len(own), int(rate/20)) {
			t.Fatalf("%d replicas save up %d of %f", len(own), saved, rate)
		}
	})
}

// TestReplicasThatComeAndGoKeepTheBudget: one replica, then three, twenty and two, all with more to
// ask than they may and none knowing what the others do, never send more than the rate in any 60
// seconds, although they learn late of one another and of who polls what. And they use most of it
// whenever they are left in peace.
func TestReplicasThatComeAndGoKeepTheBudget(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{20, 100, 200, 1000} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%d a minute, %d", rate, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := &replicas{t: t, rate: rate, random: rand.New(rand.NewPCG(seed, uint64(rate))),
						polls: seed%3 > 0}
					for _, n := range []int{1, 3, 20, 2} {
						r.become(n)
						pass(peace)
						// They come and go at any moment: in the midst of all, also right after
						// they have all asked together.
						moment := time.Minute
						if seed%2 > 0 { // or after all have saved up what they may
							r.tell(func() { r.idle = true })
							pass(2 * time.Minute)
							r.tell(func() { r.idle = false })
							moment = 5 * time.Second
						}
						pass(r.upTo(moment))
					}
					r.become(0)
					r.working.Wait()
					r.check()
				})
			})
		}
	}
}

// peace is for how long the replicas stay as they are: what they know must have settled, what
// counts late be over, and some minutes left.
const peace = 6 * time.Minute

// replicas are those of a cluster in which everybody hears of everything late.
type replicas struct {
	t       *testing.T
	rate    int
	polls   bool // connections, whose owners change with the replicas
	random  *rand.Rand
	working sync.WaitGroup

	mu    sync.Mutex
	live  []*replica
	sent  []time.Time
	peace []time.Time // when it began
	idle  bool        // nobody asks
}

type replica struct {
	stop       context.CancelFunc
	live, owns int // as far as it knows
}

const connections = 60

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

func (r *replicas) upTo(d time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.random.Int64N(int64(d)))
}

// become has replicas join or leave until there are n.
func (r *replicas) become(n int) {
	r.mu.Lock()
	if n > 0 {
		r.peace = append(r.peace, time.Now())
	}
	for len(r.live) > n {
		r.live[0].stop()
		r.live = r.live[1:]
	}
	var joining []*replica
	for len(r.live) < n {
		joined := &replica{live: len(r.live) + 1}
		r.live = append(r.live, joined)
		joining = append(joining, joined)
	}
	for i, each := range r.live {
		owns := connections/n + min(1, max(0, connections%n-i))
		time.AfterFunc(time.Duration(r.random.Int64N(int64(settle-shareEvery))), func() {
			r.tell(func() { each.live = n })
		})
		// What one gives up it knows at once, the next owner takes it after that.
		if owns <= each.owns {
			each.owns = owns
			continue
		}
		time.AfterFunc(time.Duration(r.random.Int64N(int64(2*time.Second))), func() {
			r.tell(func() { each.owns = owns })
		})
	}
	r.mu.Unlock()
	for _, joined := range joining {
		ctx, cancel := context.WithCancel(r.t.Context())
		joined.stop = cancel
		r.working.Go(func() { r.work(ctx, joined) })
		if r.upTo(2) == 0 { // together, or one after another
			pass(r.upTo(300 * time.Millisecond))
		}
	}
}

func (r *replicas) tell(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// work asks for as much as the replica may.
func (r *replicas) work(ctx context.Context, me *replica) {
	budget := audatex.NewBudget(r.rate)
	budget.Allow(0, 1)
	part := Share{
		Rate: r.rate, Budget: budget,
		Connections: func() (own, all int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if !r.polls {
				return 0, 0
			}
			return me.owns, connections
		},
		Members: func() (live int, asked relay.Throttle) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return me.live, relay.Throttle{}
		},
	}
	r.working.Go(func() { _ = part.Run(ctx) })
	for budget.Wait(ctx, audatex.PriorityPoll, "") == nil {
		idle := false
		r.tell(func() {
			r.sent = append(r.sent, time.Now())
			idle = r.idle
		})
		for idle && ctx.Err() == nil {
			pass(time.Second)
			r.tell(func() { idle = r.idle })
		}
	}
}

func (r *replicas) check() {
	most, first := 0, 0
	for i, at := range r.sent { // in the order of time: the bubble's clock moves for all at once
		for at.Sub(r.sent[first]) >= time.Minute {
			first++
		}
		most = max(most, i-first+1)
	}
	if r.t.Logf("at most %d within a minute, %d allowed", most, r.rate); most > r.rate {
		r.t.Errorf("%d requests within a minute, %d allowed", most, r.rate)
	}
	for i, began := range r.peace {
		from, to, used := began.Add(peace/2), began.Add(peace), 0
		for _, at := range r.sent {
			if !at.Before(from) && at.Before(to) {
				used++
			}
		}
		// the window cuts off a request
		if perMinute := float64(used) / (peace / 2).Minutes(); perMinute < 0.9*float64(r.rate)-0.5 {
			r.t.Errorf("%.1f requests a minute in phase %d, %d allowed", perMinute, i, r.rate)
		}
	}
}
