package proof

import "errors"

// Verify checks a receipt against a policy, offline. The report is never nil;
// the error is its Report.Error: nil exactly when the receipt is valid.
func Verify(receipt, policy []byte) (*Report, error) {
	return nil, errors.New("receipt: not verified")
}
