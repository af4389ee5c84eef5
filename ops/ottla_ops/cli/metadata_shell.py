"""`ottla metadata shell`: the metadata tree, walked as one walks folders.

On a terminal it has a prompt, a history that outlives it, and completion of commands and paths.
From a pipe it reads one command a line and prints nothing else; it goes on after a failure, and its
exit code is that of the first one.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ottla_ops.cli.failures import CommandError, ExitCode, usage_error
from ottla_ops.cli.metadata_actions import list_node, show_node
from ottla_ops.cli.metadata_tree import normalized
from ottla_ops.cli.shell_paths import COMMANDS, RECURSIVE, WITH_PATH, completions, resolve
from ottla_protocol.tree_paths import written_name

if TYPE_CHECKING:
    from ottla_ops.cli.metadata_tree import MetadataTree
    from ottla_ops.cli.output import Output

MAX_HISTORY_LINES: Final = 1_000
COMMENT: Final = "#"


class MetadataShell:
    """One session.

    Args:
        tree: what is walked.
        output: where results go.
    """

    def __init__(self, tree: "MetadataTree", output: "Output") -> None:
        self._tree = tree
        self._output = output
        self._current = "/"
        self._is_over = False
        # Of the line that is being typed: each Tab asks anew for what the last one asked.
        self._completed: dict[str, Sequence[str]] = {}
        self._candidates: list[str] = []

    @property
    def prompt(self) -> str:
        """Where one is."""
        return f"ottla:{self._current}> "

    # --- commands ---------------------------------------------------------------------------

    def execute(self, line: str) -> None:
        """Carry out one line.

        Raises:
            CommandError: it failed, or is no command.
        """
        command, *arguments = line.split() or [""]
        if not command or command.startswith(COMMENT):
            return
        if command not in COMMANDS:
            nearest = get_close_matches(command, COMMANDS, n=1)
            hint = f"did you mean '{nearest[0]}'?" if nearest else "'help' lists the commands"
            raise usage_error(f"there is no command '{command}'", hint=hint)
        recursive = command == "ls" and RECURSIVE in arguments
        if recursive:
            arguments.remove(RECURSIVE)
        if len(arguments) > (command in WITH_PATH):
            raise usage_error(f"'{command}' takes no '{arguments[-1]}'", hint=_usage(command))
        path = self._current
        if arguments:
            path = normalized(resolve(self._current, arguments[0]))
        match command:
            case "ls":
                list_node(self._tree, self._output, path, recursive=recursive)
            case "get":
                show_node(self._tree, self._output, path)
            case "cd":
                self._current = self._tree.node(path if arguments else "/").path
            case "pwd":
                self._show_text("path", self._current)
            case "help":
                self._show_text("help", "\n".join(COMMANDS[name] for name in sorted(COMMANDS)))
            case _:
                self._is_over = True

    def _show_text(self, member: str, text: str) -> None:
        if self._output.as_json:
            self._output.document({member: text})
        else:
            self._output.text(text)

    # --- from a pipe ------------------------------------------------------------------------

    def run_lines(self, lines: Iterable[str]) -> int:
        """Carry out every line up to `exit`; the exit code of the first that failed, or 0."""
        code = ExitCode.OK
        for line in lines:
            try:
                self.execute(line)
            except CommandError as error:
                self._output.flush()
                self._output.error(error)
                code = code or error.exit_code
            if self._is_over:
                break
        self._output.flush()
        return code

    # --- on a terminal ----------------------------------------------------------------------

    def run_interactive(self) -> int:
        """Prompt until `exit` or Ctrl-D. Ctrl-C gives up the line, or the command under way."""
        with self._line_editing():
            self._output.note("'help' lists the commands, Tab completes, Ctrl-D leaves")
            while not self._is_over:
                self._completed.clear()
                try:
                    self.execute(input(self.prompt))
                except CommandError as error:
                    self._output.flush()
                    self._output.error(error)
                except KeyboardInterrupt:
                    print()
                except EOFError:
                    print()
                    break
                self._output.flush()
        return ExitCode.OK

    @contextlib.contextmanager
    def _line_editing(self) -> Iterator[None]:
        try:
            import readline
        except ImportError:
            # Not on every system: the shell is the same without.
            yield
            return
        readline.set_completer_delims(" ")
        readline.set_completer(self._complete)
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        history = history_path()
        self._load_history(readline, history)
        try:
            yield
        finally:
            readline.set_completer(None)
            self._save_history(readline, history)

    def _complete(self, _: str, state: int) -> str | None:
        """What readline asks for, once for each candidate; it swallows what is raised here."""
        if state == 0:
            import readline

            line = readline.get_line_buffer()[: readline.get_endidx()]
            self._candidates = completions(line, self._current, self._children)
        return self._candidates[state] if state < len(self._candidates) else None

    def _children(self, path: str) -> Sequence[str]:
        if path not in self._completed:
            try:
                names = [written_name(name) for name in self._tree.node(path).children]
            except CommandError:
                # Nothing is known to complete with; the command itself tells why.
                names = []
            self._completed[path] = names
        return self._completed[path]

    def _load_history(self, readline: Any, history: Path) -> None:
        try:
            readline.read_history_file(history)
        except FileNotFoundError:
            return
        except OSError as error:
            self._output.note(f"the history cannot be read: {error}")

    def _save_history(self, readline: Any, history: Path) -> None:
        readline.set_history_length(MAX_HISTORY_LINES)
        try:
            history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(history)
        except OSError as error:
            self._output.note(f"the history cannot be written: {error}")


def history_path() -> Path:
    """Where the lines of former sessions are, by the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "ottla" / "metadata_history"


def run_shell(tree: "MetadataTree", output: "Output") -> int:
    """The shell on this process's stdin; its exit code."""
    shell = MetadataShell(tree, output)
    return shell.run_interactive() if sys.stdin.isatty() else shell.run_lines(sys.stdin)


def _usage(command: str) -> str:
    return " ".join(COMMANDS[command].split("  ")[0].split())
