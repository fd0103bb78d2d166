import asyncio
import json

import httpx
import pytest
from click.testing import CliRunner
from live_server import Live
from tiny_text import byte_tokenizer, tiny_model

from hyla.engine import Engine
from hyla.loadtest import Workload, drive, make_plan, summarize
from hyla.loadtest.client import Sample, Target
from hyla.loadtest.report import plot
from hyla.server.app import single_app


def samples():
    good = [
        Sample(0.0, pieces=[0.5, 0.6, 0.9], ended=1.0, prompt_tokens=10, cached_tokens=4, completion_tokens=5),
        Sample(1.0, pieces=[1.1], ended=1.25, prompt_tokens=30, completion_tokens=1, late=0.2, rejected_drafts=3),
    ]
    return [*good, Sample(1.0, ended=4.0, error="status 503"), Sample(2.0, ended=3.0, error="status 503")]


def test_a_summary_is_the_arithmetic_of_its_samples():
    found = summarize(samples())
    assert (found["requests"], found["answered"], found["errors"]) == (4, 2, {"status 503": 2})
    assert found["seconds"] == 4.0 and found["requests_per_second"] == 0.5
    assert found["generated_tokens_per_second"] == 1.5 and found["prompt_tokens_per_second"] == 10.0
    assert found["cached_share"] == 0.1 and (found["accepted_drafts"], found["rejected_drafts"]) == (0, 3)
    assert found["first_token_seconds"]["p50"] == pytest.approx(0.3)
    assert found["per_token_seconds"]["p99"] == pytest.approx(0.1), "of four gaps; an answer of one token has none"
    assert found["gap_seconds"]["mean"] == pytest.approx(0.2)
    assert found["request_seconds"]["mean"] == pytest.approx(0.625)
    assert found["driver_late_seconds"] == 0.2


def test_nothing_but_errors_and_nothing_at_all_have_a_summary_and_a_plot(tmp_path):
    for some in (samples()[2:], []):
        found = summarize(some)
        assert found["answered"] == 0 and found["first_token_seconds"]["p99"] is None
        json.dumps(found)
        plot(some, tmp_path / "empty.png", "nothing")
    plot(samples(), tmp_path / "some.png", "some")
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


def run_against(handler, workload, **options):
    async def run():
        transport = httpx.MockTransport(handler)
        async with httpx.AsyncClient(transport=transport, base_url="http://there/v1/") as client:
            return await drive(Target(client, "m", **options), *make_plan(workload), workload)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "answer,error",
    [
        (httpx.Response(503), "status 503"),
        (httpx.Response(200, content=b"data: {broken\n\n"), "not an OpenAI answer"),
        (httpx.Response(200, content=b'data: {"error": {"message": "x"}}\n\n'), "failed while streaming"),
        (httpx.Response(200, content=b"data: [DONE]\n\n"), "empty answer"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.ConnectError("gone"), "connection: ConnectError"),
    ],
)
def test_whatever_goes_wrong_is_counted_and_nothing_stops(answer, error):
    def handler(request):
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content)

    found = run_against(handler, Workload(num_requests=3, num_warmup=1))
    assert [sample.error for sample in found] == [error] * 3


def test_a_closed_loop_never_has_more_than_its_clients():
    running, most = 0, 0

    async def handler(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return httpx.Response(500)

    assert len(run_against(handler, Workload(num_requests=17, concurrency=3))) == 17
    assert most == 3


def test_open_arrivals_do_not_wait_for_answers():
    sent, are_all_here = [], asyncio.Event()

    async def handler(request):
        sent.append(request)
        if len(sent) == 6:
            are_all_here.set()
        async with asyncio.timeout(30):
            await are_all_here.wait()
        return httpx.Response(500)

    found = run_against(handler, Workload(num_requests=6, arrival="constant", rate=50.0))
    assert [sample.error for sample in found] == ["status 500"] * 6
    planned = [n / 50 for n in range(6)]
    assert all(one >= due - 0.001 for one, due in zip(sorted(sample.sent for sample in found), planned))


@pytest.fixture(scope="module")
def live():
    engine = Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=24 << 20, max_num_sequences=4)
    with Live(single_app(engine, model_name="tiny")) as live:
        yield live


def bench(live, *arguments):
    import typer

    from hyla.cli.app import app

    command = typer.main.get_command(app)
    result = CliRunner().invoke(command, ["bench", "serve", live.url, *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.output


def test_the_verb_measures_a_real_server_exactly(live, tmp_path):
    picture = tmp_path / "bench.png"
    status, printed = bench(
        live, "--requests", 8, "--concurrency", 4, "--prompt-tokens", 150, "--prefix-share", 0.9, "--token-ids", 256,
        "--answer-tokens", 6, "--plot", picture,
    )  # fmt: skip
    found = json.loads(printed.splitlines()[-1])
    assert status == 0 and found["answered"] == 8 and found["errors"] == {}
    assert (found["prompt_tokens"], found["generated_tokens"]) == (8 * 150, 8 * 6)
    assert found["cached_tokens"] >= 8 * 64, "the warm-up has read the shared beginning"
    assert found["model"] == "tiny" and found["workload"]["prefix_share"] == 0.9
    assert found["first_token_seconds"]["p50"] < found["request_seconds"]["p50"]
    assert "time per token" in printed and picture.exists()


def test_drafts_of_a_server_that_speculates_are_told(tmp_path):
    # The model's own copy drafts what it would say.
    drafts = {"speculation": "draft", "draft_model": tiny_model(), "fixed_drafts": True}
    engine = Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=24 << 20, **drafts)
    with Live(single_app(engine, model_name="tiny")) as live:
        sizes = ("--requests", 2, "--warmup", 0, "--prompt-tokens", 30, "--answer-tokens", 20)
        status, printed = bench(live, *sizes, "--plot", tmp_path / "bench.png")
    found = json.loads(printed.splitlines()[-1])
    assert status == 0 and found["accepted_drafts"] > 20 and found["rejected_drafts"] == 0
    assert f"100.0% of {found['accepted_drafts']} were right" in printed


def test_chats_are_measured_and_refusals_are_an_exit_status(live, tmp_path):
    common = ("--requests", 2, "--warmup", 0, "--plot", tmp_path / "bench.png", "--answer-tokens", 3)
    status, printed = bench(live, *common, "--chat", "--prompt-tokens", 5)
    assert status == 0 and json.loads(printed.splitlines()[-1])["generated_tokens"] == 6
    status, printed = bench(live, *common, "--prompt-tokens", 5000)
    assert status == 1 and json.loads(printed.splitlines()[-1])["errors"] == {"status 400": 2}


def test_no_server_is_one_clear_error(live, tmp_path, monkeypatch):
    from hyla.cli.bench_tables import run_and_show
    from hyla.errors import ConfigError, HylaError

    options = {"model": None, "api_key": None, "is_chat": False, "ignores_eos": True, "timeout": 5.0}
    with pytest.raises(HylaError, match="does not name a model"):
        asyncio.run(run_and_show("http://127.0.0.1:9", Workload(), tmp_path / "x.png", **options))
    with pytest.raises(ConfigError, match="exclude each other"):
        asyncio.run(run_and_show(live.url, Workload(vocab_size=9), tmp_path / "x.png", **options | {"is_chat": True}))
