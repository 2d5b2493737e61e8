package seal_test

import (
	"encoding/json"
	"net/http"
	"os"
	"testing"

	"github.com/civibus/civibus"
	"github.com/civibus/civibus/seal"
)

// TestRecipientVectors reads spec/vectors/seal/recipient.json.
func TestRecipientVectors(t *testing.T) {
	raw, err := os.ReadFile("../spec/vectors/seal/recipient.json")
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Cases []struct {
			Name      string            `json:"name"`
			Recipient []string          `json:"recipient"`
			Shown     string            `json:"shown"`
			Gateways  int               `json:"gateways"`
			Code      civibus.FaultCode `json:"code"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Cases) == 0 {
		t.Fatalf("%d cases, %v", len(set.Cases), err)
	}
	for _, c := range set.Cases {
		t.Run(c.Name, func(t *testing.T) {
			shown, err := civibus.ParseKeyID(c.Shown)
			if err != nil {
				t.Fatal(err)
			}
			v := &seal.Verified{Header: http.Header{}}
			if len(c.Recipient) > 0 {
				v.Header[civibus.HeaderRecipient] = c.Recipient
			}
			err = v.CheckRecipient(shown, func() bool { return c.Gateways <= 1 })
			if c.Code != "" {
				wantFault(t, err, c.Code, "")
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
