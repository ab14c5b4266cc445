"""The example of typed calls: both type checkers accept it strictly, and it runs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from scripts import environment, finish

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "typed.py"
SAID = """\
call Say.Hello
Hello John of 7
call Say.Hello
Hello Ann of 8
call Say.GetURL
no url of x
call Say.Count
[0, 1, 2]
call Say.Total
6
call Say.Double
[8, 10]
call Say.Count
0
call Desk.Welcome
Hello Bob of nobody, welcome
['typed']
"""
CHECKERS = {
    "mypy": ["--strict", "--no-incremental", "--cache-dir=/dev/null"],
    "pyright": ["--pythonpath", sys.executable],
}
WRONG = """
async def wrong(client: Client) -> None:
    say = client.stub("typed", SayApi)
    await say.hello("John")
    await say.hello(Name("John"), timeout=2.0)
    await client.call("typed", "Say.Hello", Name("x"), Greeting, timout=2.0)
    number: Number = await client.call("typed", "Say.Hello", Name("x"), Greeting)
    client.blocking.call("typed", "Say.Hello", Name("x"), Greeting, version=1)
    print(number)
"""


def check(checker: str, file: Path) -> subprocess.CompletedProcess[str]:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    command = [sys.executable, "-m", checker, *CHECKERS[checker], str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)


def test_it_runs(tmp_path: Path) -> None:
    result = finish([sys.executable, EXAMPLE], environment(tmp_path), tmp_path)
    assert result.ended_well().out == SAID


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_checkers_accept_it(checker: str) -> None:
    result = check(checker, EXAMPLE)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_checkers_refuse_what_is_wrong(checker: str, tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    file = tmp_path / "wrong.py"
    text, end, main = EXAMPLE.read_text().partition('if __name__ == "__main__"')
    file.write_text(text + WRONG + end + main)
    result = check(checker, file)
    first = file.read_text()[: file.read_text().index('await say.hello("John")')].count("\n") + 1
    for line in range(first, first + 5):
        assert f"wrong.py:{line}:" in result.stdout, f"line {line}:\n{result.stdout}"
