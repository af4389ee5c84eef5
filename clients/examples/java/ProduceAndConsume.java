// Writes ten records and reads them with a consumer group. Java 11 or later, nothing to install.
//
//     java ProduceAndConsume.java TOPIC GROUP
//
// OTTLA_BOOTSTRAP names brokers, with commas between them; any broker takes any request.

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.time.Instant;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class ProduceAndConsume {
    private static final String LOCAL =
        "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103";
    private static final String[] BROKERS =
        System.getenv().getOrDefault("OTTLA_BOOTSTRAP", LOCAL).split(",");
    private static final HttpClient CLIENT =
        HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofSeconds(5))
            .build();
    private static final int COUNT = 10;

    // The values here are plain words; a JSON library takes any answer apart.
    private static final Pattern VALUE = Pattern.compile("\"value\":\"([^\"]*)\"");
    private static final Pattern ACK = Pattern.compile("\"ack\":(null|\"[^\"]*\")");

    private static int broker = 0;

    /**
     * Sends one request until it is answered, to one broker after the other.
     *
     * <p>Sending it again is safe because it says the same each time: a produce has its
     * Idempotency-Key, and a poll its member and ack. Without these, only a problem whose
     * {@code outcome} is {@code not_applied} could be sent again: what is not answered may have
     * been done.
     */
    private static HttpResponse<String> send(String method, String path, String body, String key)
            throws InterruptedException {
        Instant deadline = Instant.now().plusSeconds(60);
        String failure = "";
        for (int attempt = 1; Instant.now().isBefore(deadline); attempt++) {
            HttpRequest.Builder request =
                HttpRequest.newBuilder(URI.create(BROKERS[broker] + path))
                    .timeout(Duration.ofSeconds(30))
                    .header("Content-Type", "application/json")
                    .method(method, BodyPublishers.ofString(body));
            if (key != null) {
                request.header("Idempotency-Key", key);
            }
            try {
                HttpResponse<String> answer = CLIENT.send(request.build(), BodyHandlers.ofString());
                int status = answer.statusCode();
                if (status != 421 && status != 429 && status < 500) {
                    return answer;
                }
                failure = answer.body();
            } catch (IOException error) {
                failure = error.toString(); // Refused, cut off, or silent for too long.
            }
            broker = (broker + 1) % BROKERS.length;
            if (attempt % BROKERS.length == 0) {
                Thread.sleep(100);
            }
        }
        throw new IllegalStateException("no broker answered " + path + " in time: " + failure);
    }

    private static String expect200(HttpResponse<String> answer) {
        if (answer.statusCode() != 200) {
            throw new IllegalStateException(answer.body());
        }
        return answer.body();
    }

    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 2) {
            System.err.println("usage: java ProduceAndConsume.java TOPIC GROUP");
            System.exit(2);
        }
        String topic = arguments[0];
        String group = arguments[1];

        for (int number = 0; number < COUNT; number++) {
            String record =
                String.format(
                    "{\"key\":\"gate-%d\",\"value\":\"departure-%d\"}", number % 3, number);
            // One key for each record, and the same one for each attempt.
            String key = UUID.randomUUID().toString();
            String body = "{\"records\":[" + record + "]}";
            expect200(send("POST", "/v1/topics/" + topic + "/records", body, key));
        }
        System.out.println("produced " + COUNT + " records");

        // The member's id is chosen here, so that a poll whose answer was lost leaves no second
        // member.
        String member = UUID.randomUUID().toString();
        String ack = "null";
        int read = 0;
        while (read < COUNT) {
            HttpResponse<String> answer = poll(topic, group, member, ack, 5_000);
            if (answer.statusCode() == 409) {
                // The member was gone for too long: what it had not acknowledged comes again.
                ack = "null";
                continue;
            }
            String polled = expect200(answer);
            for (Matcher value = VALUE.matcher(polled); value.find(); read++) {
                System.out.println("read " + value.group(1));
            }
            // Done with all of it, which the next poll says.
            Matcher found = ACK.matcher(polled);
            ack = found.find() ? found.group(1) : "null";
        }
        expect200(poll(topic, group, member, ack, 0));

        // Leave, so that others need not wait for the end of the session.
        send("DELETE", "/v1/groups/" + group + "/members/" + member, "", null);
    }

    private static HttpResponse<String> poll(
            String topic, String group, String member, String ack, int maxWaitMs)
            throws InterruptedException {
        String body =
            String.format(
                "{\"topics\":[\"%s\"],\"member_id\":\"%s\",\"ack\":%s,\"max_wait_ms\":%d}",
                topic, member, ack, maxWaitMs);
        return send("POST", "/v1/groups/" + group + "/poll", body, null);
    }
}
