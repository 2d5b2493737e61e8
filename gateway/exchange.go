package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/evidence/evidencepb"
	"github.com/civibus/civibus/internal/problem"
	"github.com/civibus/civibus/seal"
	"github.com/civibus/civibus/usage"
)

// exchange is one exchange as one of its two gateways sees it.
type exchange struct {
	g       *Gateway
	counts  *faceMetrics
	place   civibus.Place
	side    evidencepb.Side
	started time.Time
	view    View
	call    call

	right    string // id of the access right relied on
	peer     civibus.KeyID
	request  *seal.Seal
	response *seal.Seal
	status   int
	fault    *civibus.Fault // what the caller is told instead of an answer

	sealedFault civibus.FaultCode // of a sealed refusal, as the provider put it; the record has it
	recorded    bool              // the record is durable

	usage  []byte           // the usage record, where the exchange concerns a person
	commit usage.Commitment // to it

	requestBody, responseBody *keeper
	retryAfter                time.Duration
	document                  problem.Document // of a sealed refusal
	detail                    string           // of the fault, where the provider gave one
}

func (g *Gateway) begin(place civibus.Place, side evidencepb.Side) *exchange {
	counts := g.metrics.face(place)
	counts.inflight.Inc()
	return &exchange{g: g, counts: counts, place: place, side: side, started: g.config.Clock(), view: g.config.View()}
}

// end counts the exchange and drops what was archived but not recorded.
func (x *exchange) end() {
	p := recover()
	if p != nil {
		x.broken(p)
		defer panic(http.ErrAbortHandler) // whoever waits sees a broken connection
	}
	x.requestBody.abort()
	x.responseBody.abort()
	code := ""
	if x.fault != nil {
		code = string(x.fault.Code)
	}
	x.g.metrics.observe(x.place, x.outcome(), code, x.g.config.Clock().Sub(x.started))
}

// broken records an exchange that a fault of this program ended: whatever the
// service did before must not go without evidence. An exchange that its gateway
// itself has broken off has its record.
func (x *exchange) broken(p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		return
	}
	x.fault = civibus.Faultf(x.place, civibus.FaultInternal, "the gateway could not process the exchange")
	x.fault.Err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	x.log(context.Background(), x.fault, "")
	if x.recorded || x.call.requestID == "" && x.side == evidencepb.Side_SIDE_CONSUMER {
		return
	}
	if x.call.requestID == "" {
		x.call.requestID = newUUID()
	}
	x.response, x.status = nil, 0 // nothing of it was sent
	defer func() {
		if again := recover(); again != nil {
			x.g.config.Logger.Error("exchange not recorded", slog.Any("panic", again))
		}
	}()
	if err := x.record(context.Background()); err != nil {
		x.log(context.Background(), x.faultOf(err), "")
	}
}

// outcome says how the exchange ended.
func (x *exchange) outcome() civibus.Outcome {
	switch {
	case x.fault == nil:
		return civibus.Answered
	case failure(x.fault.Code):
		return civibus.Failed
	}
	return civibus.Refused
}

// failure tells the faults in which no answer could be had from those in which
// a gateway refused.
func failure(code civibus.FaultCode) bool {
	switch code {
	case civibus.FaultNetwork, civibus.FaultUnknownHost, civibus.FaultTimeout, civibus.FaultIO, civibus.FaultInternal,
		civibus.FaultInconsistentAnswer:
		return true
	}
	return false
}

// faultOf returns what is told of err. The evidence log does not know for which
// face it keeps, so its faults get their place here.
func (x *exchange) faultOf(err error) *civibus.Fault {
	f := civibus.AsFault(x.place, err)
	if f.Place != 0 {
		return f
	}
	here := *f
	here.Place = x.place
	return &here
}

// ready reports why the gateway takes no exchange now.
func (x *exchange) ready() error {
	if notice := x.g.config.Maintenance(); notice != "" {
		return civibus.Faultf(x.place, civibus.FaultMaintenance, "%s", notice)
	}
	// A member that has moved is not spoken for here from that block on.
	if c := &x.g.config; x.view.Carrier(c.Member) != c.Carrier || !x.view.Carries(c.Carrier, c.Member) {
		return civibus.Faultf(x.place, civibus.FaultUnknownMember, "Member '%s' is not served by this gateway any more: the registry says that another one carries its exchanges", c.Member)
	}
	if err := x.g.config.Fresh(); err != nil {
		fault := civibus.Faultf(x.place, civibus.FaultRegistryStale, "the registry view at height %d is too old to decide on: %v", x.view.Height(), err)
		fault.Err = err
		return fault
	}
	return nil
}

// record makes the exchange durable. After it the answer may leave.
func (x *exchange) record(ctx context.Context) error {
	room := new(recordRoom)
	r := &room.record
	*r = evidencepb.Record{
		Version:          1,
		Side:             x.side,
		ExchangeId:       x.call.requestID,
		MessageId:        x.call.messageID,
		Client:           x.call.clientText,
		Service:          x.call.serviceText,
		RegistryHeight:   x.view.Height(),
		Outcome:          evidencepb.Outcome(x.outcome()),
		Request:          sealRecord(&room.request, x.request),
		Response:         sealRecord(&room.response, x.response),
		StartedUnixNano:  x.started.UnixNano(),
		FinishedUnixNano: x.g.config.Clock().UnixNano(),
	}
	if x.response != nil {
		r.Status = uint32(x.status)
	}
	if r.GetRequest().GetSecond() != nil || r.GetResponse().GetSecond() != nil {
		r.Version = 2
	}
	switch {
	case x.fault == nil:
		r.RightId = x.right
	case x.sealedFault != "":
		r.Fault = string(x.sealedFault)
	default:
		r.Fault = string(x.fault.Code)
	}
	if !x.peer.IsZero() {
		r.PeerKeyId = x.peer[:]
	}
	var err error
	if r.RequestBody, err = x.requestBody.commit(&room.requestBody, x.g.config.Archive, x.request); err != nil {
		return x.unrecorded(err)
	}
	if r.ResponseBody, err = x.responseBody.commit(&room.responseBody, x.g.config.Archive, x.response); err != nil {
		return x.unrecorded(err)
	}
	// The record outlives the caller: one that hangs up must not undo it. The usage
	// record is durable by the same write.
	if x.usage == nil {
		err = x.g.config.Evidence.Append(context.WithoutCancel(ctx), r)
	} else {
		r.Usage = x.commit[:]
		err = x.g.beside.AppendBeside(context.WithoutCancel(ctx), r, x.usage)
	}
	if err != nil {
		return x.unrecorded(err)
	}
	x.recorded = true
	return nil
}

func (x *exchange) unrecorded(err error) error {
	fault := civibus.Faultf(x.place, civibus.FaultEvidence, "the gateway cannot keep evidence of the exchange")
	fault.Err = err
	return fault
}

// recordRoom is a record with all its parts in one allocation.
type recordRoom struct {
	record                    evidencepb.Record
	request, response         evidencepb.Seal
	requestBody, responseBody evidencepb.Body
}

func sealRecord(room *evidencepb.Seal, s *seal.Seal) *evidencepb.Seal {
	if s == nil {
		return nil
	}
	room.Base, room.Signature, room.KeyId = s.Base, s.Signature, s.KeyID[:]
	if s.Second != nil {
		room.Second = &evidencepb.SecondSignature{Signature: s.Second.Signature, KeyId: s.Second.KeyID[:]}
	}
	return room
}

// log reports a fault to the operator, with its cause and without what passed.
func (x *exchange) log(ctx context.Context, fault *civibus.Fault, detail string) {
	level := slog.LevelInfo
	if fault.Err != nil || failure(fault.Code) {
		level = slog.LevelWarn
	}
	x.g.config.Logger.LogAttrs(ctx, level, "exchange not answered",
		slog.String("code", string(fault.Code)), slog.String("detail", detail),
		slog.String("exchange", x.call.requestID), slog.String("client", x.clientLogged()),
		slog.String("service", x.serviceLogged()), ruleLogged(fault), slog.Any("err", fault.Err))
}

// ruleLogged names the rule of a refusal; an attribute without a name is left out.
func ruleLogged(fault *civibus.Fault) slog.Attr {
	if fault.Rule == nil {
		return slog.Attr{}
	}
	return slog.String("rule", fault.Rule.ID)
}

// notRegistered stands in the log for what a caller wrote where an identifier
// belongs: it may be anything, the number of a person too.
const notRegistered = "(not registered)"

func (x *exchange) clientLogged() string {
	if x.view == nil || x.call.clientText == "" {
		return notRegistered
	}
	_, ok := x.view.Member(x.call.client.MemberID)
	if x.call.client.Subsystem != "" {
		_, ok = x.view.Subsystem(x.call.client)
	}
	if !ok {
		return notRegistered
	}
	return x.call.clientText
}

func (x *exchange) serviceLogged() string {
	if x.view == nil || x.call.serviceText == "" {
		return notRegistered
	}
	if _, ok := x.view.Service(x.call.service); !ok {
		return notRegistered
	}
	return x.call.serviceText
}

// answerFields sets the fields with which every answer of the provider's
// gateway says what it answers.
func (x *exchange) answerFields(h http.Header) {
	l := make(lines, 0, 5)
	l.set(h, civibus.HeaderID, x.call.messageID)
	l.set(h, civibus.HeaderClient, x.call.clientText)
	l.set(h, civibus.HeaderService, x.call.serviceText)
	l.set(h, civibus.HeaderRequestID, x.call.requestID)
	l.set(h, civibus.HeaderHeight, strconv.FormatUint(x.view.Height(), 10))
}

// retry is the value of Retry-After, in whole seconds.
func (x *exchange) retry() string {
	return strconv.FormatInt(int64((x.retryAfter+time.Second-1)/time.Second), 10)
}
