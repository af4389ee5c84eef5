"""Topics over HTTP: their names, their rules, and that every broker knows them at once."""

import threading
from itertools import count
from urllib.parse import quote

import pytest

from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

_numbers = count(1)


@pytest.fixture
def name():
    """A name that no test has used."""
    return f"made-{next(_numbers)}"


def create(client, document, **arguments):
    return client.http.post(f"{client.any_url()}/v1/topics", document, **arguments)


def refused(answer, status, code):
    """The detail of a refusal, which must be a whole problem document about a write."""
    problem = answer.expect(status).document
    assert (problem["code"], problem["status"], problem["retriable"]) == (code, status, False)
    assert problem["type"] == f"urn:ottla:error:{code}"
    assert problem["title"]
    assert problem["outcome"] == "not_applied"
    return problem["detail"]


class TestNames:
    @pytest.mark.parametrize(
        ("bad", "rule"),
        [
            ("", "empty"),
            (".", "'.'"),
            ("..", "'..'"),
            ("a" * 249, "fewer than 249"),
            ("a" * 5000, "fewer than 249"),
            ("a b", "character"),
            ("a/b", "character"),
            ("../a", "character"),
            ("a\\b", "character"),
            ("a\n", "character"),
            ("a\x00b", "character"),
            ("größe", "character"),
            ("a%2fb", "character"),
            ("a:b", "character"),
        ],
    )
    def test_a_name_that_breaks_a_rule_is_refused_naming_the_rule(self, shared, bad, rule):
        assert rule in refused(create(shared, {"name": bad}), 422, "INVALID_TOPIC_EXCEPTION")

    @pytest.mark.parametrize(
        "internal", ["__consumer_offsets", "__transaction_state", "__consumer.offsets"]
    )
    def test_the_brokers_own_names_are_refused(self, shared, internal):
        detail = refused(create(shared, {"name": internal}), 422, "INVALID_TOPIC_EXCEPTION")
        assert "internal" in detail

    def test_the_longest_name_works_from_creation_to_deletion(self, shared):
        longest = "a" * 248
        shared.create_topic(longest, partitions=1)
        assert shared.append(longest, 1) == 0
        shared.http.delete(f"{shared.any_url()}/v1/topics/{longest}").expect(204)

    def test_all_legal_characters(self, shared):
        made = shared.create_topic("Az09-x", partitions=1)
        assert made["warnings"] == []
        shared.create_topic("-", partitions=1)
        shared.create_topic("...", partitions=1)
        assert shared.append("...", 1) == 0

    def test_a_dot_with_an_underscore_is_made_with_a_warning(self, shared, name):
        [warning] = shared.create_topic(f"{name}.a_b", partitions=1)["warnings"]
        assert "'.'" in warning
        assert "'_'" in warning

    @pytest.mark.parametrize(("first", "second"), [("c.d", "c_d"), ("e_f.g", "e.f_g")])
    def test_names_that_differ_in_dot_and_underscore_only_collide(self, shared, first, second):
        shared.create_topic(first, partitions=1)
        detail = refused(create(shared, {"name": second}), 409, "TOPIC_ALREADY_EXISTS")
        assert repr(first) in detail

    @pytest.mark.parametrize(
        "path", ["%2e%2e", "..%2f..%2fetc", "a%2fb", "a%00b", "%ff", "a%0d%0aX-Evil:1", "%C3%A4"]
    )
    def test_encoded_names_in_paths_are_no_topics(self, shared, path):
        """Decoded, these are names that no topic can have; none may become a file's path."""
        url = shared.any_url()
        for answer in (
            shared.http.get(f"{url}/v1/topics/{path}"),
            shared.http.delete(f"{url}/v1/topics/{path}"),
            shared.http.post(f"{url}/v1/topics/{path}/records", {"records": [{"value": 1}]}),
            shared.http.get(f"{url}/v1/topics/{path}/partitions/0/records"),
        ):
            assert answer.status == 404
            assert answer.code in {"UNKNOWN_TOPIC_OR_PARTITION", "RESOURCE_NOT_FOUND"}
            assert "X-Evil" not in answer.headers

    def test_an_encoded_name_is_the_name(self, shared, name):
        shared.create_topic(f"{name}.x", partitions=1)
        encoded = quote(f"{name}.x").replace(".", "%2e")
        assert shared.describe(encoded)["name"] == f"{name}.x"


class TestCreation:
    def test_what_is_left_out_takes_its_default(self, shared, name):
        made = shared.create_topic(name)
        assert made["name"] == name
        assert [state["partition"] for state in made["partitions"]] == [0, 1, 2]
        for state in made["partitions"]:
            assert sorted(state["replicas"]) == [1, 2, 3]
            assert state["isr"] == state["replicas"]
            assert state["leader"] == state["replicas"][0]
            assert state["leader_epoch"] == 0
        assert made["configs"]["min.insync.replicas"] == 2
        assert made["configs"]["durability"] == "fsync"
        assert made["warnings"] == []
        assert shared.describe(name) == made

    def test_leaders_are_spread(self, shared, name):
        made = shared.create_topic(name, partitions=9)
        leaders = [state["leader"] for state in made["partitions"]]
        assert [leaders.count(node) for node in (1, 2, 3)] == [3, 3, 3]

    def test_configs_are_taken_and_shown(self, shared, name):
        wanted = {"min.insync.replicas": 3, "segment.bytes": "4096", "durability": "os"}
        shared.create_topic(name, partitions=1, configs=wanted)
        configs = shared.describe(name)["configs"]
        assert (configs["min.insync.replicas"], configs["segment.bytes"]) == (3, 4096)
        assert configs["durability"] == "os"

    def test_validate_only_checks_and_makes_nothing(self, shared, name):
        answer = create(shared, {"name": name, "partitions": 2, "validate_only": True}).expect(200)
        assert len(answer.document["partitions"]) == 2
        shared.http.get(f"{shared.any_url()}/v1/topics/{name}").expect(404)
        detail = refused(
            create(shared, {"name": name, "partitions": 0, "validate_only": True}),
            422,
            "INVALID_PARTITIONS",
        )
        assert "not 0" in detail

    def test_a_second_creation_is_refused(self, shared, name):
        shared.create_topic(name, partitions=1, via=1)
        for node_id in (1, 2, 3):
            answer = shared.http.post(f"{shared.url(node_id)}/v1/topics", {"name": name})
            assert name in refused(answer, 409, "TOPIC_ALREADY_EXISTS")

    @pytest.mark.parametrize("partitions", [0, -1, 2001, 2**40])
    def test_partitions_out_of_range(self, shared, name, partitions):
        detail = refused(
            create(shared, {"name": name, "partitions": partitions}), 422, "INVALID_PARTITIONS"
        )
        assert "1..2000" in detail
        assert str(partitions) in detail

    @pytest.mark.parametrize("factor", [0, -1, 4, 100])
    def test_replication_factor_out_of_range_or_above_the_live_brokers(self, shared, name, factor):
        detail = refused(
            create(shared, {"name": name, "replication_factor": factor}),
            422,
            "INVALID_REPLICATION_FACTOR",
        )
        assert "1..3" in detail
        assert str(factor) in detail

    @pytest.mark.parametrize(
        ("configs", "told"),
        [
            ({"retention.msec": 1}, ["retention.msec", "Known"]),
            ({"segment.byte": 4096}, ["segment.byte", "segment.bytes"]),
            ({"min.insync.replicas": 0}, ["min.insync.replicas", "1.."]),
            ({"min.insync.replicas": "many"}, ["min.insync.replicas", "whole number"]),
            ({"min.insync.replicas": True}, ["min.insync.replicas", "whole number"]),
            ({"durability": "maybe"}, ["durability", "fsync"]),
        ],
    )
    def test_a_wrong_config_is_named(self, shared, name, configs, told):
        detail = refused(create(shared, {"name": name, "configs": configs}), 422, "INVALID_CONFIG")
        for part in told:
            assert part in detail

    @pytest.mark.parametrize(
        ("document", "field"),
        [
            ({"nme": "x"}, "nme"),
            ({"partitions": 1}, "name"),
            ({"name": "x", "partition": 1}, "partition"),
            ({"name": 1}, "name"),
            ({"name": "x", "partitions": "3"}, "partitions"),
            ({"name": "x", "partitions": 1.5}, "partitions"),
            ({"name": "x", "configs": []}, "configs"),
            ({"name": "x", "configs": {"segment.bytes": None}}, "configs"),
            ([], "object"),
        ],
    )
    def test_a_wrong_field_is_named(self, shared, document, field):
        assert field in refused(create(shared, document), 422, "INVALID_REQUEST")

    @pytest.mark.parametrize("body", ["", "{", '{"name": "x"', '{"name": x}', "\xff"])
    def test_a_body_that_is_no_json_is_400_with_the_position(self, shared, body):
        answer = create(shared, None, body=body.encode("latin-1"))
        detail = refused(answer, 400, "MALFORMED_BODY")
        assert "byte" in detail or "empty" in detail

    def test_an_unknown_query_parameter_is_refused(self, shared, name):
        answer = create(shared, {"name": name}, validate_only="true")
        assert "validate_only" in refused(answer, 422, "INVALID_REQUEST")


class TestEveryBrokerKnows:
    def test_create_on_one_and_produce_on_another_at_once(self, shared):
        """No broker may answer 'unknown topic' after another one has answered 'created'."""
        for round_ in range(12):
            name = f"at-once-{next(_numbers)}"
            creator, user = 1 + round_ % 3, 1 + (round_ + 1 + round_ // 3) % 3
            shared.create_topic(name, partitions=3, via=creator)
            records = [{"value": p, "partition": p} for p in range(3)]
            document = shared.produce(name, records, via=user).expect(200).document
            assert [result["base_offset"] for result in document["results"]] == [0, 0, 0]

    def test_create_on_one_and_read_describe_or_delete_on_another_at_once(self, shared):
        for round_ in range(6):
            name = f"at-once-{next(_numbers)}"
            creator, user = 1 + round_ % 3, 1 + (round_ + 1) % 3
            shared.create_topic(name, partitions=1, via=creator)
            if round_ % 2:
                shared.describe(name, via=user)
            else:
                answer = shared.read(name, via=user, max_wait_ms=0).expect(200)
                assert answer.document["next_offset"] == 0
            shared.http.delete(f"{shared.url(user)}/v1/topics/{name}").expect(204)

    def test_a_broker_shows_at_once_what_it_has_answered(self, shared):
        for round_ in range(6):
            name = f"at-once-{next(_numbers)}"
            url = f"{shared.url(1 + round_ % 3)}/v1/topics"
            shared.create_topic(name, partitions=1, via=1 + round_ % 3)
            listed = shared.http.get(url).expect(200).document["topics"]
            assert name in {topic["name"] for topic in listed}
            shared.http.delete(f"{url}/{name}").expect(204)
            shared.http.get(f"{url}/{name}").expect(404)

    def test_the_list_is_sorted_and_the_same_everywhere(self, shared, name):
        shared.create_topic(f"{name}-b", partitions=1)
        shared.create_topic(f"{name}-a", partitions=1)

        def listed(node_id):
            topics = shared.http.get(f"{shared.url(node_id)}/v1/topics").expect(200).document
            return [topic["name"] for topic in topics["topics"]]

        assert eventually(lambda: listed(1) == listed(2) == listed(3))
        assert listed(1) == sorted(listed(1))
        assert {f"{name}-a", f"{name}-b"} <= set(listed(1))

    def test_metadata_tells_leaders_and_urls(self, shared, name):
        shared.create_topic(name, partitions=2)
        for node_id in (1, 2, 3):
            url = f"{shared.url(node_id)}/v1/metadata"
            document = shared.http.get(url, topics=name).expect(200).document
            assert [topic["name"] for topic in document["topics"]] == [name]
            urls = {broker["id"]: broker["url"] for broker in document["brokers"]}
            assert urls == {node: shared.url(node) for node in (1, 2, 3)}
            assert document["cluster_id"] == "local"
            assert document["controller"] in urls
        answer = shared.http.get(url, topics=f"{name},absent").expect(404)
        assert "absent" in answer.document["detail"]

    def test_brokers_and_cluster(self, shared):
        cluster = shared.http.get(f"{shared.any_url()}/v1/cluster").expect(200).document
        assert cluster["cluster_id"] == "local"
        assert cluster["controller"] in {1, 2, 3}
        assert [broker["state"] for broker in cluster["brokers"]] == ["active"] * 3
        brokers = shared.http.get(f"{shared.any_url()}/v1/brokers").expect(200).document["brokers"]
        assert [broker["id"] for broker in brokers] == [1, 2, 3]


class TestDeletion:
    def test_a_deleted_topic_is_gone_with_its_files_on_every_broker(self, shared, name):
        shared.create_topic(name, partitions=3)
        for partition in range(3):
            shared.append(name, "x", partition=partition)
        directories = [
            broker.data_dir / f"{name}-{partition}"
            for broker in shared.cluster.brokers
            for partition in range(3)
        ]
        assert all(any(directory.glob("*.sqlite")) for directory in directories)
        shared.http.delete(f"{shared.url(2)}/v1/topics/{name}").expect(204)
        for node_id in (1, 2, 3):
            url = f"{shared.url(node_id)}/v1/topics/{name}"
            eventually(lambda url=url: shared.http.get(url).status == 404)
            for answer in (
                shared.http.get(url),
                shared.http.delete(url),
                shared.http.get(f"{url}/partitions/0/records"),
                shared.http.get(f"{url}/partitions/0/offsets"),
                shared.http.post(f"{url}/records", {"records": [{"value": 1}]}),
            ):
                assert answer.expect(404).code == "UNKNOWN_TOPIC_OR_PARTITION"
        eventually(lambda: not any(directory.exists() for directory in directories))
        for broker in shared.cluster.brokers:
            deleted = broker.data_dir / "deleted"
            eventually(lambda deleted=deleted: not list(deleted.iterdir()))

    def test_a_poll_on_a_deleted_topic_ends_at_once(self, shared, name):
        shared.create_topic(name, partitions=1)
        shared.append(name, 1)
        leader = shared.leader(name)

        answers = []
        poll = threading.Thread(
            target=lambda: answers.append(
                shared.read(name, via=leader, offset=1, max_wait_ms=20_000)
            )
        )
        # Whether the poll is parked by then or comes too late, it must not wait for its time.
        poll.start()
        shared.http.delete(f"{shared.any_url()}/v1/topics/{name}").expect(204)
        poll.join(10)
        assert answers
        assert answers[0].expect(404).code == "UNKNOWN_TOPIC_OR_PARTITION"

    def test_the_name_may_be_used_again_and_begins_empty(self, shared, name):
        first = shared.create_topic(name, partitions=1)
        assert shared.append(name, "old") == 0
        shared.http.delete(f"{shared.any_url()}/v1/topics/{name}").expect(204)
        second = shared.create_topic(name, partitions=1)
        assert second["topic_id"] != first["topic_id"]
        assert shared.append(name, "new") == 0
        assert shared.values(name) == {0: "new"}


class TestUnknownPathsAndMethods:
    def test_404(self, shared):
        for path in ("/nothing", "/v1", "/v1/nothing", "/v1/topics/a/b", "/v2/topics"):
            answer = shared.http.get(shared.any_url() + path).expect(404)
            assert answer.code == "RESOURCE_NOT_FOUND"
            assert path in answer.document["detail"]

    def test_405_names_the_methods(self, shared, topic):
        answer = shared.http.call("PUT", f"{shared.any_url()}/v1/topics/{topic}").expect(405)
        assert answer.code == "METHOD_NOT_ALLOWED"
        allowed = {method.strip() for method in answer.headers["Allow"].split(",")}
        assert {"GET", "DELETE"} <= allowed
        assert "PUT" not in allowed

    def test_head_is_a_get_without_a_body(self, shared, topic):
        answer = shared.http.call("HEAD", f"{shared.any_url()}/v1/topics/{topic}").expect(200)
        assert answer.body == b""
