#!/bin/sh
# Writes ten records and reads them with a consumer group, with nothing but curl, sed and grep.
#
#     produce-and-consume.sh TOPIC GROUP
#
# OTTLA_BOOTSTRAP names brokers, with commas between them; any broker takes any request.
set -eu

topic=${1:?usage: produce-and-consume.sh TOPIC GROUP}
group=${2:?usage: produce-and-consume.sh TOPIC GROUP}
brokers=$(echo "${OTTLA_BOOTSTRAP:-http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103}" | tr , ' ')
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# Sends one POST until it is answered, to one broker after the other. The answer's status is in
# $status, its body in the file $answer.
#
# Sending it again is safe because it says the same each time: a produce has its Idempotency-Key,
# and a poll its member and ack. Without these, only a problem with "outcome":"not_applied" could
# be sent again: what is not answered may have been done.
post() {
    path=$1 body=$2
    shift 2
    deadline=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt "$deadline" ]; do
        for broker in $brokers; do
            status=$(curl --silent --max-time 30 --output "$answer" --write-out '%{http_code}' \
                --header 'Content-Type: application/json' "$@" --data "$body" \
                "$broker$path") || continue
            case $status in
                421 | 429 | 5??) ;; # It passes: another broker, or the next round.
                *) return ;;
            esac
        done
        sleep 0.1
    done
    echo "no broker answered POST $path in time" >&2
    exit 1
}

refused() {
    echo "$status for POST $path: $(cat "$answer")" >&2
    exit 1
}

# --- produce ---------------------------------------------------------------------------------

run="$(date +%s)-$$"
number=0
while [ "$number" -lt 10 ]; do
    # One key for each record, and the same one for each attempt.
    post "/v1/topics/$topic/records" \
        "{\"records\":[{\"key\":\"gate-$((number % 3))\",\"value\":\"departure-$number\"}]}" \
        --header "Idempotency-Key: $run-$number"
    [ "$status" = 200 ] || refused
    number=$((number + 1))
done
echo "produced $number records"

# --- consume ---------------------------------------------------------------------------------

# The member's id is chosen here, so that a poll whose answer was lost leaves no second member.
member="example-$run"
ack=null
read=0
while [ "$read" -lt "$number" ]; do
    post "/v1/groups/$group/poll" \
        "{\"topics\":[\"$topic\"],\"member_id\":\"$member\",\"ack\":$ack,\"max_wait_ms\":5000}"
    if [ "$status" = 409 ]; then
        ack=null # The member was gone for too long: what it had not acknowledged comes again.
        continue
    fi
    [ "$status" = 200 ] || refused
    # The values here are plain words; jq takes any JSON apart.
    for value in $(grep -o '"value":"[^"]*"' "$answer" | sed 's/"value":"\(.*\)"/\1/'); do
        echo "read $value"
        read=$((read + 1))
    done
    # Done with all of it, which the next poll says.
    ack=$(sed -n 's/.*"ack":\("[^"]*"\).*/\1/p' "$answer")
    ack=${ack:-null}
done
post "/v1/groups/$group/poll" \
    "{\"topics\":[\"$topic\"],\"member_id\":\"$member\",\"ack\":$ack,\"max_wait_ms\":0}"
[ "$status" = 200 ] || refused

# Leave, so that others need not wait for the end of the session.
for broker in $brokers; do
    curl --silent --max-time 30 --output "$answer" --request DELETE \
        "$broker/v1/groups/$group/members/$member" && break
done
