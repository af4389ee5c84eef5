"""`ottla metadata ls`, `get` and `shell`, the latter from a pipe and on a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

TREE = "/v1/metadata/tree"
LIMIT_S = 30.0


def described(path, children=(), value=None, note="", paths=(), next_cursor=None):
    return {
        "path": path,
        "children": list(children),
        "value": value,
        "note": note,
        "metadata_version": 9,
        "paths": list(paths),
        "next_cursor": next_cursor,
        "missing": "",
    }


@pytest.fixture
def tree(cluster):
    """A broker with a small tree."""
    nodes = {
        "/": described("/", ["brokers", "controller"]),
        "/brokers": described("/brokers", ["ids", "topics"]),
        "/brokers/ids": described("/brokers/ids", ["1", "2"]),
        "/brokers/ids/1": described("/brokers/ids/1", value={"host": "h", "port": 1}),
        "/consumers": described("/consumers", ["a/b c"]),
        "/controller": described("/controller", note="No controller is elected."),
    }
    for path, document in nodes.items():
        cluster.script("GET", TREE + path, 200, document)
    return cluster


class TestCommands:
    def test_ls_prints_names_as_they_are_written_in_paths(self, cli, tree):
        assert cli("metadata", "ls", to=tree) == (0, "brokers\ncontroller\n", "")
        assert cli("metadata", "ls", "/brokers/ids/", to=tree)[1] == "1\n2\n"
        assert cli("metadata", "ls", "/consumers", to=tree)[1] == "a%2Fb%20c\n"

    def test_ls_of_what_has_no_children_tells_the_note(self, cli, tree):
        code, out, err = cli("metadata", "ls", "/controller", to=tree)
        assert (code, out, err) == (0, "", "No controller is elected.\n")

    def test_what_nobody_told_is_told_as_missing(self, cli, cluster):
        lost = "the consumer groups of __consumer_offsets-3"
        names = {**described("/consumers", ["g"]), "missing": lost}
        cluster.script("GET", TREE + "/consumers", 200, names)
        code, out, err = cli("metadata", "ls", "/consumers", to=cluster)
        assert (code, out, err) == (0, "g\n", f"missing here: {lost}\n")
        assert cli("metadata", "get", "/consumers", to=cluster)[2] == f"missing here: {lost}\n"
        as_json = json.loads(cli("metadata", "ls", "/consumers", "--json", to=cluster)[1])
        assert as_json["missing"] == lost

    def test_a_walk_tells_once_what_is_missing(self, cli, cluster):
        lost = "the consumer groups of __consumer_offsets-3"
        walked = {**described("/", paths=["/consumers"]), "missing": lost}
        pages = [{**walked, "next_cursor": "1"}, walked]
        cluster.script("GET", TREE + "/", 200, pages)
        code, out, err = cli("metadata", "ls", "-R", to=cluster)
        assert (code, out, err) == (0, "/consumers\n" * 2, f"missing here: {lost}\n")
        as_json = json.loads(cli("metadata", "ls", "-R", "--json", to=cluster)[1])
        assert as_json["missing"] == lost

    def test_every_page_is_asked_for(self, cli, cluster, monkeypatch):
        pages = {
            None: described("/", ["a"], value=1, paths=["/a"], next_cursor="/a"),
            "/a": described("/", ["b"], value=1, paths=["/b"], next_cursor="/b"),
            "/b": described("/", ["c"], value=1, paths=["/c"]),
        }
        monkeypatch.setattr(
            "tests.unit.ops.fake_cluster._Api.answer",
            lambda _, call: (200, pages[call.query.get("cursor")]),
        )
        assert cli("metadata", "ls", to=cluster)[1] == "a\nb\nc\n"
        assert cli("metadata", "ls", "-R", to=cluster)[1] == "/a\n/b\n/c\n"

    def test_ls_recursive_prints_paths_and_goes_through_all_pages(self, cli, tree):
        tree.script("GET", TREE + "/", 200, described("/", paths=["/brokers", "/controller"]))
        code, out, _ = cli("metadata", "ls", "-R", to=tree)
        assert (code, out) == (0, "/brokers\n/controller\n")
        (call,) = tree.calls()
        assert call.query["recursive"] == "true"
        document = json.loads(cli("metadata", "ls", "-R", "/", "--json", to=tree)[1])
        assert document == {
            "schema_version": 1,
            "path": "/",
            "paths": ["/brokers", "/controller"],
            "missing": "",
        }

    def test_get_prints_the_value_on_stdout_and_the_note_on_stderr(self, cli, tree):
        assert cli("metadata", "get", "/brokers/ids/1", to=tree) == (
            0,
            '{"host":"h","port":1}\n',
            "",
        )
        assert cli("metadata", "get", "/controller", to=tree) == (
            0,
            "null\n",
            "No controller is elected.\n",
        )

    def test_json_is_the_brokers_answer(self, cli, tree):
        document = json.loads(cli("metadata", "get", "/brokers/ids/1", "--json", to=tree)[1])
        assert document == {
            "schema_version": 1,
            **described("/brokers/ids/1", value={"host": "h", "port": 1}),
        }

    def test_what_is_not_there_is_exit_code_3(self, cli, tree):
        tree.refuse(404, "UNKNOWN_METADATA_PATH", nearest="/brokers")
        code, _, err = cli("metadata", "get", "/brokers/x", to=tree)
        assert code == 3
        assert "ottla metadata ls -R" in err

    @pytest.mark.parametrize("path", ["brokers", "/a//b", "/..", "/%ff"])
    def test_what_is_no_path_is_a_usage_error_and_asks_nobody(self, cli, tree, path):
        assert cli("metadata", "ls", path, to=tree)[0] == 2
        assert tree.calls() == []


class TestFromAPipe:
    def shell(self, cli, tree, script, *arguments):
        return cli("metadata", "shell", *arguments, stdin=script.encode(), to=tree)

    def test_commands_are_carried_out_in_order(self, cli, tree):
        script = "# a comment\n\npwd\ncd brokers\npwd\nls\ncd ids\nget 1\ncd ../..\npwd\ncd\npwd\n"
        code, out, err = self.shell(cli, tree, script)
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "/",
            "/brokers",
            "ids",
            "topics",
            '{"host":"h","port":1}',
            "/",
            "/",
        ]

    def test_exit_ends_it(self, cli, tree):
        assert self.shell(cli, tree, "pwd\nexit\npwd\n")[:2] == (0, "/\n")
        assert self.shell(cli, tree, "quit\npwd\n")[:2] == (0, "")

    def test_it_goes_on_after_a_failure_and_ends_with_the_first_ones_exit_code(self, cli, tree):
        code, out, err = self.shell(cli, tree, "get /nowhere\nfoo\ngte /\npwd\n")
        assert (code, out) == (3, "/\n")
        assert "there is no command 'foo'" in err
        assert "did you mean 'get'?" in err

    def test_a_failed_cd_goes_nowhere(self, cli, tree):
        code, out, _ = self.shell(cli, tree, "cd /nowhere\npwd\n")
        assert (code, out) == (3, "/\n")

    @pytest.mark.parametrize(
        "line", ["pwd x", "get a b", "ls -x /", "exit now", "help me", "cd %ff"]
    )
    def test_wrong_arguments_are_usage_errors(self, cli, tree, line):
        code, _, err = self.shell(cli, tree, f"{line}\n")
        assert code in {2, 3}
        assert err.startswith("ottla: ")

    def test_json_is_one_object_a_line(self, cli, tree):
        code, out, _ = self.shell(cli, tree, "pwd\nls\nget /controller\n", "--json")
        assert code == 0
        path, listed, got = map(json.loads, out.splitlines())
        assert path == {"schema_version": 1, "path": "/"}
        assert listed["children"] == ["brokers", "controller"]
        assert got["value"] is None

    def test_help_names_every_command(self, cli, tree):
        out = self.shell(cli, tree, "help\n")[1]
        assert {line.split()[0] for line in out.splitlines()} == {
            "cd", "exit", "get", "help", "ls", "pwd", "quit",
        }  # fmt: skip


RUN_ON_OWN_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C reaches only whose terminal it is.
from ottla_ops.cli.main import run
sys.exit(run())
"""


class Terminal:
    """`ottla metadata shell` on a terminal of its own."""

    def __init__(self, cluster, home):
        self._master, follower = pty.openpty()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                RUN_ON_OWN_TERMINAL,
                "--bootstrap",
                cluster.bootstrap,
                "metadata",
                "shell",
            ],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "dumb", "XDG_STATE_HOME": str(home), "INPUTRC": os.devnull},
            start_new_session=True,
        )
        os.close(follower)
        self._seen = ""

    def type(self, text):
        os.write(self._master, text.encode())

    def expect(self, text):
        """Wait until `text` is shown after what was expected before; returns what came up to it."""
        assert self.shows(text, LIMIT_S), f"no {text!r} in {self._seen!r}"
        shown, _, self._seen = self._seen.partition(text)
        return shown

    def shows(self, text, limit_s):
        """Whether `text` is shown in time after what was expected before."""
        deadline_s = time.monotonic() + limit_s
        while text not in self._seen:
            remaining_s = max(0, deadline_s - time.monotonic())
            ready, _, _ = select.select([self._master], [], [], remaining_s)
            if not ready:
                return False
            try:
                self._seen += os.read(self._master, 4_096).decode()
            except OSError:
                # The other side is closed: what was read is all.
                assert text in self._seen, f"the end before {text!r}: {self._seen!r}"
        return True

    def interrupt(self, prompt):
        """Type Ctrl-C until there is a new prompt; there may be more of them then.

        Python's readline only sees one while it waits for a key. One that comes just before, on a
        busy machine just after the last prompt, it sees at the next key.
        """
        deadline_s = time.monotonic() + LIMIT_S
        self.type("\x03")
        while not self.shows(prompt, 1):
            assert time.monotonic() < deadline_s, f"no {prompt!r} in {self._seen!r}"
            self.type("\x03")
        return self.expect(prompt)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tree, tmp_path):
    started = []

    def start():
        started.append(Terminal(tree, tmp_path))
        started[-1].expect("ottla:/> ")
        return started[-1]

    yield start
    for each in started:
        each.close()


class TestOnATerminal:
    def test_prompt_completion_interrupt_and_end(self, terminal):
        shell = terminal()
        shell.type("cd br\t\r")
        shell.expect("ottla:/brokers> ")
        shell.type("get i\t1\r")
        assert '{"host":"h","port":1}' in shell.expect("ottla:/brokers> ")
        shell.type("half a li")
        shell.expect("half a li")
        shell.interrupt("ottla:/brokers> ")
        shell.type("get /nowhere\r")
        shell.expect("not found")
        shell.expect("ottla:/brokers> ")
        shell.type("\x04")
        assert shell.process.wait(LIMIT_S) == 0

    def test_history_outlives_the_shell(self, terminal, tmp_path):
        first = terminal()
        first.type("ls brokers\r")
        first.expect("ottla:/> ")
        first.type("exit\r")
        assert first.process.wait(LIMIT_S) == 0
        assert "ls brokers" in (tmp_path / "ottla" / "metadata_history").read_text()
        second = terminal()
        second.type("\x10\x10\r")  # Ctrl-P, twice back
        assert "topics" in second.expect("ottla:/> ")
        second.type("\x04")
        assert second.process.wait(LIMIT_S) == 0
