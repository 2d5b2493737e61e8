// Package once carries evidence from the body that has it to the body that needs it, so
// that a person is asked for nothing that the state knows: upon her explicit request, and
// used only after she has seen it and approved (spec/once.md).
//
// The catalogue of what can be had, and which requirements of procedures it proves, is
// the registry's. The asking body's part keeps each request and where it stands; the
// providing body's part fetches the evidence from its own service, keeps it for as long
// as a decision may take, and gives it up for use against a token: the asking body's
// signature over the request, the very evidence that was shown, and the person's
// decision. A token counts for one request, once. Both parts have on disk what they have
// acknowledged.
//
// Trust: the asking body is believed that the person asked and decided, and it signs
// that it is so; its gateway sees the preview before she decides. Who controls it can
// show a preview to the wrong person, and answers for every token that it signed. The providing body is
// believed about its evidence. An attacker between them can do neither.
package once
