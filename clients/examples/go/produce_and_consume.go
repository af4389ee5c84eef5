// Writes ten records and reads them with a consumer group. Nothing to install.
//
//	go run produce_and_consume.go TOPIC GROUP
//
// OTTLA_BOOTSTRAP names brokers, with commas between them; any broker takes any request.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	local = "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103"
	count = 10
)

type record struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type poll struct {
	Topics    []string `json:"topics"`
	MemberID  string   `json:"member_id"`
	Ack       *string  `json:"ack"`
	MaxWaitMS int      `json:"max_wait_ms"`
}

type polled struct {
	Records []record `json:"records"`
	Ack     *string  `json:"ack"`
}

type cluster struct {
	client  *http.Client
	brokers []string
	broker  int
}

// send sends one request until it is answered, to one broker after the other.
//
// Sending it again is safe because it says the same each time: a produce has its Idempotency-Key,
// and a poll its member and ack. Without these, only a problem whose outcome is not_applied could
// be sent again: what is not answered may have been done.
func (c *cluster) send(method, path string, document any, key string) (int, []byte) {
	var body []byte
	if document != nil {
		var err error
		if body, err = json.Marshal(document); err != nil {
			log.Fatal(err)
		}
	}
	deadline := time.Now().Add(60 * time.Second)
	var failure any
	for attempt := 1; time.Now().Before(deadline); attempt++ {
		status, answer, err := c.try(method, c.brokers[c.broker]+path, body, key)
		if err == nil && status != 421 && status != 429 && status < 500 {
			return status, answer
		}
		failure = err // Refused, cut off, or silent for too long.
		if err == nil {
			failure = string(answer)
		}
		c.broker = (c.broker + 1) % len(c.brokers)
		if attempt%len(c.brokers) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	log.Fatalf("no broker answered %s %s in time: %v", method, path, failure)
	return 0, nil
}

func (c *cluster) try(method, url string, body []byte, key string) (int, []byte, error) {
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

func expect200(status int, answer []byte) []byte {
	if status != http.StatusOK {
		log.Fatalf("%d: %s", status, answer)
	}
	return answer
}

func unique() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		log.Fatal(err)
	}
	return fmt.Sprintf("%x", id)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run produce_and_consume.go TOPIC GROUP")
	}
	topic, group := os.Args[1], os.Args[2]
	bootstrap := os.Getenv("OTTLA_BOOTSTRAP")
	if bootstrap == "" {
		bootstrap = local
	}
	c := &cluster{
		client:  &http.Client{Timeout: 30 * time.Second},
		brokers: strings.Split(bootstrap, ","),
	}

	for number := 0; number < count; number++ {
		records := []record{{
			Key:   fmt.Sprintf("gate-%d", number%3),
			Value: fmt.Sprintf("departure-%d", number),
		}}
		body := map[string]any{"records": records}
		// One key for each record, and the same one for each attempt.
		expect200(c.send("POST", "/v1/topics/"+topic+"/records", body, unique()))
	}
	fmt.Printf("produced %d records\n", count)

	// The member's id is chosen here, so that a poll whose answer was lost leaves no second member.
	ask := poll{Topics: []string{topic}, MemberID: unique(), MaxWaitMS: 5000}
	path := "/v1/groups/" + group + "/poll"
	for read := 0; read < count; {
		status, answer := c.send("POST", path, ask, "")
		if status == http.StatusConflict {
			ask.Ack = nil // The member was gone for too long: what it had not acknowledged comes again.
			continue
		}
		var found polled
		if err := json.Unmarshal(expect200(status, answer), &found); err != nil {
			log.Fatal(err)
		}
		for _, each := range found.Records {
			fmt.Println("read", each.Value)
			read++
		}
		ask.Ack = found.Ack // Done with all of it, which the next poll says.
	}
	ask.MaxWaitMS = 0
	expect200(c.send("POST", path, ask, ""))

	// Leave, so that others need not wait for the end of the session.
	c.send("DELETE", "/v1/groups/"+group+"/members/"+ask.MemberID, nil, "")
}
