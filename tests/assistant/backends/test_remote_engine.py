"""An engine behind an OpenAI-compatible server: what is sent, what comes back, how failures are told."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, FakeSession
from PIL import Image as PillowImage

from egolive.assistant.backends.remote.remote_engine import RemoteEngine, messages_of
from egolive.assistant.cli import main as cli
from egolive.assistant.generation.generate import GenerationRequest, Sampling, generate_answers
from egolive.assistant.live.assistant import Assistant
from egolive.assistant.live.sinks import answer_event
from egolive.assistant.prompts.prompts import build_prompt, chat_prompt, make_vision
from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Delta, Message, Prompt, Request, Vision
from egolive.assistant.schema.profiles import EGOTHINKER_V1, NANO
from egolive.streaming.clock import VirtualClock
from egolive.streaming.errors import ConfigError, EngineError
from egolive.streaming.frames import Frame, Slice, Window

IMAGES = [np.full((70, 112, 3), shade, np.uint8) for shade in (10, 20, 30, 40)]


class Server(ThreadingHTTPServer):
    """Serves one model that answers boxes and words; holds what it was asked."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.models = ["nano"]
        self.logins: set[str | None] = set()
        self.status = 200
        self.body: bytes | None = None
        self.bodies: list[bytes] = []
        """Of the next answers, before `body` holds."""
        self.missing = 0
        """Bytes of an answer that are announced and not sent."""
        self.headers: dict[str, str] = {}
        self.connections: set[tuple[str, int]] = set()
        self.address = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """Streams what the server says."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": name} for name in self.server.models]}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        text = asked["messages"][-1]["content"][-1]["text"]
        said = ["<|box_start|>", "(500,500)", ",(750,1000)"] if "Find" in text else ["make ", "tea"]
        events: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant"}}]}]
        events += [{"choices": [{"delta": {"content": piece}}]} for piece in said]
        events[-1]["choices"][0]["logprobs"] = {"content": [{"token": said[-1], "logprob": -0.5}]}
        usage = {"prompt_tokens": 40, "completion_tokens": 3}
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        body = (
            "".join([*lines, "data: [DONE]\n\n"]).encode() if self.server.body is None else self.server.body
        )
        self._send(self.server.bodies.pop(0) if self.server.bodies else body, self.server.missing)

    def _send(self, body: bytes, missing: int = 0) -> None:
        self.server.connections.add(self.client_address)
        self.server.logins.add(self.headers["Authorization"])
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body) + missing))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection |= bool(missing)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        yield served


@pytest.fixture
def engine(server: Server) -> Iterator[RemoteEngine]:
    with closing(RemoteEngine(server.address, NANO)) as made:
        yield made


def ask_intent(engine: RemoteEngine) -> list[Delta]:
    """The answer to one question."""
    with engine.session() as session:
        return list(session.ask([request(Question("intent"), make_vision(IMAGES[:1], NANO))]))


def request(question: Question, vision: Vision) -> Request:
    return Request(build_prompt(NANO, question, [vision]), max_tokens=9)


def test_a_prompt_becomes_messages_with_one_picture_a_slice() -> None:
    vision = make_vision(IMAGES, NANO, kind="video")
    (message,) = messages_of(build_prompt(NANO, Question("intent"), [vision]))
    assert message["role"] == "user"
    *pictures, text = message["content"]
    assert text == {"type": "text", "text": "What is the wearer doing?"}
    shades = []
    for picture in pictures:
        head, data = picture["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        with PillowImage.open(io.BytesIO(base64.b64decode(data))) as shown:
            assert shown.size == (224, 140)
            shades.append(np.asarray(shown)[0, 0, 0])
    # The newer frame of each pair.
    assert shades == [20, 40]


def test_turns_and_pictures_stay_in_their_order_and_texts_that_follow_each_other_are_one() -> None:
    picture = make_vision(IMAGES[:1], NANO)
    turns = [
        Message("system", ("Be brief.",)),
        Message("user", ("Look at ", "this:", picture, "and say what it is.")),
        Message("assistant", ("A cup.",)),
        Message("user", ("<|im_end|>Whose?",)),
    ]
    system, first, said, last = messages_of(chat_prompt(NANO, turns))
    assert [turn["role"] for turn in (system, first, said, last)] == ["system", "user", "assistant", "user"]
    assert system["content"] == [{"type": "text", "text": "Be brief."}]
    assert [item["type"] for item in first["content"]] == ["text", "image_url", "text"]
    assert first["content"][0]["text"] == "Look at this:"
    # A text cannot end its turn on the server either.
    assert last["content"] == [{"type": "text", "text": " Whose?"}]


def test_the_profiles_system_message_is_sent() -> None:
    system, user = messages_of(build_prompt(EGOTHINKER_V1, Question("ask", "Hi"), []))
    assert system == {"role": "system", "content": [{"type": "text", "text": EGOTHINKER_V1.system}]}
    assert user["role"] == "user"


def test_a_prompt_that_is_text_alone_is_refused(server: Server, engine: RemoteEngine) -> None:
    with engine.session() as session, pytest.raises(EngineError, match="takes messages"):
        list(session.ask([Request(Prompt(("Hi",)))]))
    assert server.asked == []


def test_questions_are_asked_greedily_and_answered_as_they_come(server: Server, engine: RemoteEngine) -> None:
    picture = make_vision(IMAGES[:1], NANO)
    with engine.session() as session:
        asked = [request(Question("ground", "right hand"), picture), request(Question("intent"), picture)]
        deltas = list(session.ask(asked))
        texts = ["".join(delta.text for delta in deltas if delta.request == number) for number in (0, 1)]
        assert texts == ["<|box_start|>(500,500),(750,1000)", "make tea"]
        assert sorted(delta.request for delta in deltas if delta.finished == "stop") == [0, 1]
        assert [delta.logprob for delta in deltas if delta.text == "tea"] == [-0.5]
        assert session.usage(0) == {"prompt_tokens": 40, "completion_tokens": 3}
        assert session.usage()["prompt_tokens"] == 80
    for sent in server.asked:
        assert (sent["model"], sent["temperature"], sent["stream"], sent["max_tokens"]) == (
            "nano",
            0.0,
            True,
            9,
        )


def test_the_assistant_reads_boxes_and_words_of_a_server(engine: RemoteEngine) -> None:
    frames = [Frame(image, number / 2, number) for number, image in enumerate(IMAGES)]
    window = Window((Slice(frames[0], frames[1], 0), Slice(frames[2], frames[3], 1)))
    with Assistant(engine) as assistant:
        hand, intent = assistant.answer([Question("ground", "right hand"), Question("intent")], window=window)
    assert [tuple(box) for box in hand.boxes] == [(56.0, 35.0, 84.0, 70.0)]
    # The server told the probability of the last piece only.
    assert hand.boxes[0].score is None
    assert answer_event(hand, 1.5)["boxes"][0]["score"] is None  # type: ignore[index]
    assert intent.text == "make tea"


TOLD: list[tuple[dict[str, Any], float | None]] = [
    ({}, None),
    ({"logprobs": None}, None),
    ({"logprobs": {"content": []}}, None),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]"}]}}, None),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]", "logprob": None}]}}, None),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]", "logprob": 0.7}]}}, None),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]", "logprob": True}]}}, None),
    ({"logprobs": {"content": [{"token": "[500", "logprob": -0.5}]}}, None),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]", "logprob": -0.5}]}}, 0.60653),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]", "logprob": -9999}]}}, 0.0),
    ({"logprobs": {"content": [{"token": "[500,500,750,1000]", "logprob": 0}]}}, 1.0),
]
"""What a server may tell of the tokens of [500,500,750,1000], and the score of the box."""


def test_a_probability_that_the_server_does_not_tell_is_unknown(server: Server, engine: RemoteEngine) -> None:
    with Assistant(engine) as assistant:
        for logprobs, score in TOLD:
            said = {"delta": {"content": "[500,500,750,1000]"}, "finish_reason": "stop"}
            server.body = events_of({"choices": [said | logprobs]})
            (hand,) = assistant.answer([Question("ground", "hand")], picture=Frame(IMAGES[0], 0.0, 0))
            (box,) = hand.boxes
            assert tuple(box) == (56.0, 35.0, 84.0, 70.0)
            assert box.score == (None if score is None else pytest.approx(score, abs=1e-5)), logprobs


def test_the_command_line_takes_an_address(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PillowImage.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    asked = ["ask", str(tmp_path / "a.png"), "left hand", "--task", "ground", "--hands", "model", "--engine"]
    assert cli.call([*asked, server.address, "--served-as", "nano"]) == 0
    assert "56" in capsys.readouterr().out
    assert cli.call([*asked, server.address, "--served-as", "other"]) == 1
    assert "egothinker-v1, nano" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(EngineError, match=r"^http://127.0.0.1:9 cannot be reached: .*is the server running"):
        RemoteEngine("http://127.0.0.1:9/v1", NANO)


def test_the_connection_is_kept_from_question_to_question(server: Server, engine: RemoteEngine) -> None:
    for number in range(3):
        ask_intent(engine)
        assert len(server.asked) == number + 1
    assert len(server.connections) == 1


def test_a_redirect_is_not_followed(server: Server, engine: RemoteEngine) -> None:
    with serving() as other:
        server.status, server.headers = 307, {"Location": f"{other.address}/chat/completions"}
        with pytest.raises(EngineError, match="refused with status 307"):
            ask_intent(engine)
    assert other.asked == []
    assert other.connections == set()


def test_no_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with closing(RemoteEngine(server.address, NANO)) as engine:
        assert len(ask_intent(engine)) > 1


def test_a_password_in_the_address_is_told_to_the_server_alone(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    secret = server.address.replace("http://", "http://user:sec%2Fret@")
    with caplog.at_level(logging.DEBUG), closing(RemoteEngine(secret, NANO)) as engine:
        assert engine.info.device == server.address
        server.status = 500
        with pytest.raises(EngineError) as error:
            ask_intent(engine)
    assert server.logins == {"Basic " + base64.b64encode(b"user:sec/ret").decode()}
    # httpx logs the address of each request.
    assert any(record.name == "httpx" for record in caplog.records)
    for text in (str(error.value), caplog.text):
        assert "ret@" not in text
        assert "sec/ret" not in text
        assert "user:" not in text


def events_of(*events: dict[str, Any], done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"] if done else lines).encode()


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}


BROKEN = {
    "no reason, nothing behind it": events_of(piece("make "), piece("tea"), done=False),
    "no reason": events_of(piece("make "), piece("tea")),
    "another reason": events_of(piece("make "), piece("", "content_filter")),
    "an error": events_of(piece("make "), {"error": {"message": "out of memory"}}),
    "no JSON": events_of(piece("make "), done=False) + b'data: {"choi',
    "no event": events_of(piece("make "), done=False) + b'data: {"choices": 7}\n\ndata: [DONE]\n\n',
}
"""Bodies of answers that began and did not come to their end."""


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, server: Server) -> Server:
    """A server that breaks off each of its answers in one of these ways."""
    server.body = BROKEN[request.param]
    return server


@pytest.fixture
def torn(server: Server) -> Server:
    """A server that closes the connection before it has sent what it announced."""
    server.body, server.missing = events_of(piece("make "), piece("tea")), 100
    return server


def test_an_answer_that_the_server_breaks_off_is_broken(broken: Server, engine: RemoteEngine) -> None:
    *_, last = ask_intent(engine)
    assert last.finished == "broken"
    assert last.error.startswith(f"http://127.0.0.1:{broken.server_port} ")
    assert "\n" not in last.error
    with Assistant(engine) as assistant, pytest.raises(EngineError):
        assistant.answer([Question("ground", "hand")], picture=Frame(IMAGES[0], 0.0, 0))


def test_a_whole_message_with_a_reason_needs_no_mark_of_its_end(server: Server, engine: RemoteEngine) -> None:
    """`transformers serve` sends none."""
    server.body = events_of(piece("make "), piece("tea", "stop"), done=False)
    assert ask_intent(engine)[-1].finished == "stop"
    # Torn behind the reason it is not known whether more was to come.
    server.missing = 100
    assert ask_intent(engine)[-1].finished == "broken"


def test_a_connection_that_is_lost_breaks_the_answer(torn: Server, engine: RemoteEngine) -> None:
    *_, last = ask_intent(engine)
    assert last.finished == "broken"
    assert re.search(r"broke off in the middle of an answer: .*; ask again", last.error)


def test_an_answer_without_a_word_before_the_break_is_an_error(server: Server, engine: RemoteEngine) -> None:
    server.body = b""
    with pytest.raises(EngineError, match="its end is missing"):
        ask_intent(engine)


@pytest.mark.parametrize("how", ["no reason", "another reason"])
def test_ask_fails_where_the_server_breaks_off(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    server.body = BROKEN[how]
    PillowImage.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    asked = ["ask", str(tmp_path / "a.png"), "What?", "--engine", server.address, "--served-as", "nano"]
    assert cli.call([*asked, "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "127.0.0.1" in told.err.splitlines()[-1]


@pytest.mark.parametrize(("limit", "code"), [((), 1), (("--max-tokens", "2"), 0)])
def test_ask_fails_where_a_limit_that_nobody_gave_cuts_the_answer(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: tuple[str, ...], code: int
) -> None:
    server.body = events_of(piece("make "), piece("tea", "length"))
    PillowImage.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    asked = ["ask", str(tmp_path / "a.png"), "What?", "--engine", server.address, "--served-as", "nano"]
    assert cli.call([*asked, *limit]) == code
    told = capsys.readouterr()
    assert told.out == "guess: make tea …\n"
    assert ("cut off at the limit of tokens" in told.err) == bool(code)


def test_a_run_counts_broken_answers_apart_and_goes_on(
    server: Server, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [events_of(piece("make tea", "stop")), events_of(piece("drink", "stop"))]
    server.bodies = [whole[0], BROKEN["no reason"], BROKEN["an error"], whole[1]]
    ran = ["run", str(video), "--seconds", "4.2", "--tasks", "intent", "--engine", server.address]
    ran += ["--served-as", "nano", "--no-video", "--no-view", "--out", str(tmp_path / "out")]
    assert cli.call([*ran, "--record", str(tmp_path / "kept")]) == 0
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    told = [(event["status"], event["text"]) for event in events if event["type"] == "answer"]
    assert told[:4] == [("ok", "make tea"), ("broken", ""), ("broken", ""), ("ok", "drink")]
    assert events[-1]["reuse"] == dict.fromkeys(("slices_encoded", "prompt_tokens_reused", "draft_accepted"))
    requests = events[-1]["requests"]
    assert requests["broken"] == 2
    assert requests["ok"] == events[-1]["answers"] == len(told) - 2
    assert "broken   2 answers" in capsys.readouterr().err


def test_a_run_without_one_complete_answer_fails(
    server: Server, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.body = BROKEN["no reason"]
    ran = ["run", str(video), "--seconds", "4.2", "--tasks", "intent", "--engine", server.address]
    assert cli.call([*ran, "--served-as", "nano", "--no-view"]) == 1
    assert "no answer became complete" in capsys.readouterr().err


def test_an_engine_that_ends_without_an_end_gives_no_answer() -> None:
    class Short(FakeSession):
        def ask(self, requests: Sequence[Request]) -> Iterator[Delta]:
            yield Delta(0, 0, "make ", None)

    engine = FakeEngine()
    asked = GenerationRequest(question=Question("intent"), prompt=Prompt(("What?",)))
    with Short(engine) as session, pytest.raises(EngineError, match="broke off"):
        list(generate_answers(session, [asked], NANO, Sampling(), VirtualClock()))


def test_a_line_separator_inside_an_answer_does_not_end_it(server: Server, engine: RemoteEngine) -> None:
    event = {"choices": [{"delta": {"content": "one\u2028two\x85three"}, "finish_reason": "length"}]}
    server.body = f"data: {json.dumps(event, ensure_ascii=False)}\n\ndata: [DONE]\n\n".encode()
    deltas = ask_intent(engine)
    assert [delta.text for delta in deltas] == ["one\u2028two\x85three", ""]
    assert deltas[-1].finished == "length"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (500, b"CUDA\nout of memory", "refused with status 500: CUDA out of memory"),
        (200, b"data: {broken\n\n", "does not answer as an OpenAI-compatible server"),
        (200, b'data: {"choices": [3]}\n\n', "does not answer as an OpenAI-compatible server"),
        (200, b'data: {"error": {"message": "too long"}}\n\n', "failed: .*too long"),
    ],
)
def test_wrong_answers_are_told_in_one_line(
    server: Server, engine: RemoteEngine, status: int, body: bytes, told: str
) -> None:
    server.status, server.body = status, body
    with pytest.raises(EngineError, match=told) as error:
        ask_intent(engine)
    assert "\n" not in str(error.value)


def test_the_model_has_to_be_named_where_there_are_several(server: Server) -> None:
    server.models = ["nano", "other"]
    with pytest.raises(EngineError, match="serves nano, other: name the model"):
        RemoteEngine(server.address, NANO)
    with closing(RemoteEngine(server.address, NANO, model="other")) as engine:
        assert engine.info.name == "other"


@pytest.mark.parametrize("address", ["nano", "ftp://there", "http://", "http://there:99999", "http://\ud800"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a server"):
        RemoteEngine(address, NANO)
