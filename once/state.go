package once

import "fmt"

// State is where a request for evidence stands.
type State string

// The states.
const (
	Requested    State = "requested"     // the person asked for it explicitly; the provider has not answered
	Previewed    State = "previewed"     // it is there to be shown to her
	NotAvailable State = "not_available" // the provider has none
	Later        State = "later"         // the provider has it not yet
	Approved     State = "approved"      // she wants it used; the provider has not answered
	Declined     State = "declined"      // she does not
	Delivered    State = "delivered"     // it may be used
	Expired      State = "expired"       // nobody decided in time, and it was deleted
)

// event is what can happen to a request.
type event string

const (
	shown    event = "shown"
	none     event = "none"
	delayed  event = "delayed"
	approve  event = "approved"
	decline  event = "declined"
	received event = "received"
	lapse    event = "lapsed"
)

// after is the state after an event; what is not here cannot happen.
func after(s State, e event) (State, error) {
	next, ok := map[State]map[event]State{
		Requested: {shown: Previewed, none: NotAvailable, delayed: Later, lapse: Expired},
		Later:     {shown: Previewed, none: NotAvailable, delayed: Later, lapse: Expired},
		Previewed: {approve: Approved, decline: Declined, lapse: Expired},
		Approved:  {received: Delivered, lapse: Expired},
	}[s][e]
	if !ok {
		return s, &Refused{"wrong_state", fmt.Sprintf("the request is %s, and cannot be %s", s, e)}
	}
	return next, nil
}

// Refused is what a caller is told that something cannot be done.
type Refused struct{ Code, Reason string }

// Error returns code and reason.
func (e *Refused) Error() string { return e.Code + ": " + e.Reason }

func refuse(code, format string, args ...any) error {
	return &Refused{code, fmt.Sprintf(format, args...)}
}
