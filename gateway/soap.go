package gateway

import (
	"bytes"
	"encoding/xml"
	"net/http"
	"strconv"
)

// refuseSOAP answers what is neither a REST call nor metadata as X-Road's SOAP
// handler would: with a SOAP 1.1 fault and status 200.
func refuseSOAP(w http.ResponseWriter, r *http.Request) {
	code := "Server.ClientProxy.ServiceType"
	text := "This gateway does not offer the SOAP protocol. Call services by REST: /r1/{instance}/{class}/{member}/{subsystem}/{service}"
	if r.Method != http.MethodPost {
		code = "Client.InvalidHttpMethod"
		text = "Must use POST request method instead of " + r.Method
	}
	var b bytes.Buffer
	b.WriteString(xml.Header + `<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"><SOAP-ENV:Body><SOAP-ENV:Fault><faultcode>`)
	_ = xml.EscapeText(&b, []byte(code))
	b.WriteString(`</faultcode><faultstring>`)
	_ = xml.EscapeText(&b, []byte(text)) // a bytes.Buffer does not fail
	b.WriteString(`</faultstring></SOAP-ENV:Fault></SOAP-ENV:Body></SOAP-ENV:Envelope>`)
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // the caller went away: nobody to tell
	}
}
