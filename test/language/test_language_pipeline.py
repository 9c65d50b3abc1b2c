# SPDX-License-Identifier: Apache-2.0
"""The pipeline without ROS: questions in, tokens, reply and event out."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import jsonschema
import pytest
from robot_messages import OUTPUTS, SECOND, message, scene, speech

from edge_nodes import parameters
from edge_nodes.errors import EdgeNodesError, ModelError, State
from edge_nodes.events import LANGUAGE
from edge_nodes.language.config import LanguageConfig
from edge_nodes.language.errors import LanguageError
from edge_nodes.language.scene import Scene


@pytest.fixture(scope="module")
def loaded(small_model):
    from edge_nodes.pipelines.language import LanguagePipeline

    values = {"model": str(small_model), "threads": 2, "max_new_tokens": 12, "context_tokens": 2048}
    pipeline = LanguagePipeline(parameters.replace(LanguageConfig(), values))
    lines = []
    pipeline.load(lines.append)
    assert any("ready" in line for line in lines)
    yield pipeline
    pipeline.close()


@pytest.fixture
def pipeline(loaded):
    config = loaded.config
    loaded._scene, loaded._narrated_alarm, loaded._narrated_s = None, "", float("-inf")
    yield loaded
    loaded.update(config)


def ask(pipeline, topic, content, *, received_ns=12 * SECOND, wanted=OUTPUTS):
    if pipeline.arrived(topic, content, received_ns=received_ns):
        return None
    outputs = list(pipeline.process(topic, content, received_ns=received_ns, wanted=wanted))
    return {
        "tokens": [o.fields["data"] for o in outputs if o.topic == "language/token"],
        "replies": [o.fields["data"] for o in outputs if o.topic == "language/reply"],
        "events": [json.loads(o.fields["data"]) for o in outputs if o.topic == "language/event"],
    }


def test_written_question(pipeline):
    assert pipeline.arrived("scene/event", scene(sequence=41), received_ns=12 * SECOND)
    out = ask(pipeline, "language/prompt", message("What do you see?"))
    assert "".join(out["tokens"]).strip() == out["replies"][0]
    event = out["events"][0]
    jsonschema.validate(event, LANGUAGE)
    assert event["kind"] == "reply"
    assert event["request"].items() >= {"source": "prompt", "text": "What do you see?"}.items()
    assert event["scene_sequence"] == 41
    assert event["stamp_ns"] == 12 * SECOND
    assert event["text"] == out["replies"][0]
    assert {"queue", "prefill", "total"} <= set(event["latency_ms"])
    assert event["tokens"]["cached"] > 0.8 * event["tokens"]["prompt"]
    assert pipeline.status()["kernel"] == event["kernel"]


def test_spoken_question_and_what_is_none(pipeline):
    for kind, text in (("start", ""), ("partial", "what do"), ("final", "  ")):
        assert ask(pipeline, "speech/event", speech(kind, text)) is None
    out = ask(pipeline, "speech/event", speech("final", "what do you see"))
    event = out["events"][0]
    assert event["request"]["source"] == "speech"
    assert event["scene_sequence"] is None
    assert event["latency_ms"]["from_end_of_speech"] >= 1000.0  # received 1 s after the speech ended
    assert event["stamp_ns"] == 10 * SECOND


def test_answers_go_by_the_newest_scene(pipeline):
    for number in range(5):
        assert pipeline.arrived("scene/event", scene(number), received_ns=12 * SECOND)
    out = ask(pipeline, "language/prompt", message("What do you see?"))
    assert out["events"][0]["scene_sequence"] == 4


def test_old_scene_is_not_used(pipeline):
    pipeline.arrived("scene/event", scene(), received_ns=12 * SECOND)
    pipeline._scene = (pipeline._scene[0], pipeline._scene[1] - 60.0)
    out = ask(pipeline, "language/prompt", message("What do you see?"))
    assert out["events"][0]["scene_sequence"] is None


def test_earlier_scenes_are_kept_apart(pipeline):
    pipeline._history.clear()
    pipeline.update(parameters.replace(pipeline.config, {"prompt.history": 2, "prompt.history_step_s": 2.0}))
    for number in range(60):  # 10 a second
        pipeline._see(Scene.from_json(scene(number).data), 100.0 + number / 10)
    assert [(round(e.age_s, 1), e.scene.sequence) for e in pipeline._earlier(106.0)] == [(2.0, 40), (4.0, 20)]
    pipeline.update(parameters.replace(pipeline.config, {"prompt.history": 0}))
    assert pipeline._earlier(106.0) == []
    pipeline.call("language/reset")
    assert not pipeline._history


def test_barge_in_stops_the_answer(pipeline):
    run = pipeline.process("language/prompt", message("What?"), received_ns=0, wanted=OUTPUTS)
    next(run)
    assert pipeline.arrived("speech/event", speech("start", ""), received_ns=12 * SECOND)
    rest = list(run)
    assert [o.topic for o in rest] == ["language/reply", "language/event"]
    event = json.loads(rest[1].fields["data"])
    jsonschema.validate(event, LANGUAGE)
    assert (event["kind"], event["finish_reason"]) == ("cancelled", "cancelled")
    assert ask(pipeline, "language/prompt", message("And now?"))["events"][0]["kind"] == "reply"


def test_no_barge_in_when_switched_off(pipeline):
    pipeline.update(parameters.replace(pipeline.config, {"barge_in": False}))
    run = pipeline.process("language/prompt", message("What?"), received_ns=0, wanted=OUTPUTS)
    next(run)
    pipeline.arrived("speech/event", speech("start", ""), received_ns=12 * SECOND)
    assert json.loads(list(run)[-1].fields["data"])["kind"] == "reply"


def test_alarms_are_narrated_once_and_not_too_often(pipeline):
    alarm = {"text": "A person is close ahead.", "object": 1}
    assert ask(pipeline, "scene/event", scene(0, alarm)) is None
    pipeline.update(parameters.replace(pipeline.config, {"narrate": "alarms", "narrate_interval_s": 0.0}))
    out = ask(pipeline, "scene/event", scene(1, alarm))
    jsonschema.validate(out["events"][0], LANGUAGE)
    assert out["events"][0]["kind"] == "narration"
    assert out["events"][0]["request"]["text"] == alarm["text"]
    assert ask(pipeline, "scene/event", scene(2, alarm)) is None
    assert ask(pipeline, "scene/event", scene(3)) is None
    assert ask(pipeline, "scene/event", scene(4, alarm)) is not None
    pipeline.update(parameters.replace(pipeline.config, {"narrate": "alarms", "narrate_interval_s": 3600.0}))
    assert ask(pipeline, "scene/event", scene(5)) is None
    assert ask(pipeline, "scene/event", scene(6, alarm)) is None


def test_narrates_on_request(pipeline):
    for seen, expected in ((None, "What must I know now?"), (scene(3), "A person.")):
        if seen:
            pipeline.arrived("scene/event", seen, received_ns=12 * SECOND)
        event = ask(pipeline, "language/narrate", SimpleNamespace())["events"][0]
        jsonschema.validate(event, LANGUAGE)
        assert (event["kind"], event["request"]["source"], event["request"]["text"]) == (
            "narration",
            "narration",
            expected,
        )
    assert event["scene_sequence"] == 3
    assert event["model_memory_mb"] == pipeline.status()["model_memory_mb"] > 0


def test_cancel_stops_the_running_answer_and_those_that_wait(pipeline):
    run = pipeline.process("language/prompt", message("What?"), received_ns=0, wanted=OUTPUTS)
    next(run)
    waiting = message("And where?")
    assert not pipeline.arrived("language/prompt", waiting, received_ns=0)
    assert "cancelled" in pipeline.call("language/cancel")
    outputs = [*run, *pipeline.process("language/prompt", waiting, received_ns=0, wanted=OUTPUTS)]
    events = [json.loads(o.fields["data"]) for o in outputs if o.topic == "language/event"]
    for event in events:
        jsonschema.validate(event, LANGUAGE)
    assert [event["kind"] for event in events] == ["cancelled", "cancelled"]
    assert events[1]["tokens"]["generated"] == 0
    assert ask(pipeline, "language/prompt", message("And now?"))["events"][0]["kind"] == "reply"


def test_reset_forgets_scene_and_prompt(pipeline):
    pipeline.arrived("scene/event", scene(5), received_ns=12 * SECOND)
    assert "forgotten" in pipeline.call("language/reset")
    event = ask(pipeline, "language/prompt", message("What do you see?"))["events"][0]
    assert event["scene_sequence"] is None
    assert event["tokens"]["cached"] == 0
    assert ask(pipeline, "language/prompt", message("What do you see?"))["events"][0]["tokens"]["cached"] > 0
    with pytest.raises(EdgeNodesError, match="no such service"):
        pipeline.call("language/dance")


def test_what_did_not_change_is_not_computed_again(pipeline):
    def tokens(question):
        return ask(pipeline, "language/prompt", message(question))["events"][0]["tokens"]

    pipeline.arrived("scene/event", scene(1), received_ns=12 * SECOND)
    tokens("What do you see?")
    again = tokens("What do you see?")
    assert again["cached"] == again["prompt"] - 1
    other = tokens("Is there a wall?")
    assert other["cached"] > 0.8 * other["prompt"]
    pipeline.arrived("scene/event", scene(2, distance=9.1), received_ns=12 * SECOND)
    moved = tokens("Is there a wall?")
    assert moved["cached"] == moved["prompt"] - 1  # what the question is not about may change


def test_answers_follow_a_grammar(pipeline, tmp_path):
    schema = {"type": "object", "properties": {"stop": {"type": "boolean"}}, "required": ["stop"]}
    (tmp_path / "reply.json").write_text(json.dumps({**schema, "additionalProperties": False}))
    pipeline.update(
        parameters.replace(pipeline.config, {"reply_grammar": str(tmp_path / "reply.json"), "max_new_tokens": 40})
    )
    out = ask(pipeline, "language/prompt", message("Must I stop?"))
    assert json.loads(out["replies"][0]) in ({"stop": True}, {"stop": False})
    before = pipeline.config
    with pytest.raises(LanguageError, match="grammar"):
        pipeline.update(parameters.replace(before, {"reply_grammar": "/nowhere.json"}))
    assert pipeline.config == before


def test_only_what_is_wanted(pipeline):
    out = ask(pipeline, "language/prompt", message("What?"), wanted=("language/reply",))
    assert (len(out["tokens"]), len(out["replies"]), len(out["events"])) == (0, 1, 0)
    before = pipeline.status()["answers"]
    assert ask(pipeline, "language/prompt", message("What?"), wanted=()) == {"tokens": [], "replies": [], "events": []}
    assert pipeline.status()["answers"] == before


@pytest.mark.parametrize(
    ("topic", "content"),
    [
        ("language/prompt", ""),
        ("language/prompt", " \n"),
        ("speech/event", "{"),
        ("speech/event", "[]"),
        ("speech/event", '{"kind": "final"}'),
        ("scene/event", "nonsense"),
        ("scene/event", '{"objects": []}'),
        ("language/prompt", "word " * 5000),
    ],
)
def test_malformed_messages_are_said_and_lose_nothing(pipeline, topic, content):
    pipeline.arrived("scene/event", scene(9), received_ns=12 * SECOND)
    with pytest.raises(LanguageError) as caught:
        ask(pipeline, topic, message(content))
    assert caught.value.state is State.BAD_INPUT
    out = ask(pipeline, "language/prompt", message("What do you see?"))
    assert out["events"][0]["scene_sequence"] == 9


def test_missing_model():
    from edge_nodes.pipelines.language import LanguagePipeline

    pipeline = LanguagePipeline(parameters.replace(LanguageConfig(), {"model": "/nowhere.gguf"}))
    with pytest.raises(ModelError) as caught:
        pipeline.load(print)
    assert caught.value.state is State.MODEL_MISSING
    assert pipeline.status() == {}


def test_template_is_changed_at_run_time(pipeline, tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text("### user\n{{ question }}\n")
    changed = parameters.replace(pipeline.config, {"prompt.template": str(path)})
    original = pipeline.config
    pipeline.update(changed)
    assert ask(pipeline, "language/prompt", message("What?"))["events"][0]["tokens"]["prompt"] < 40
    with pytest.raises(LanguageError):
        pipeline.update(parameters.replace(changed, {"prompt.template": "/nowhere"}))
    pipeline.update(original)


def test_import_is_light():
    code = (
        "import sys, edge_nodes.language, edge_nodes.language.config; "
        "edge_nodes.language.load; import edge_nodes.pipelines.language, edge_nodes.language.gguf_file; "
        "print('torch' in sys.modules, 'rclpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == ["False", "False"]


def test_real_model_answers_from_the_scene(smollm2):
    from edge_nodes.language import PromptComposer, Scene

    composer = PromptComposer()
    for distance in (3.2, 8.5):
        found = Scene.from_json(scene(distance=distance).data)
        for question, word in [("Is there a person near you?", "person"), ("What do you see ahead?", "person")]:
            run = smollm2.generate(smollm2.tokenizer.chat(composer.compose(question, found)), stop=("\n",))
            text = "".join(t.text for t in run)
            assert word in text, text
            assert str(distance) in text, text


def test_attention_changes_with_the_next_request(pipeline):
    changed = parameters.replace(
        pipeline.config, {"attention": "delta", "delta.theta": 0.3, "delta.calibration": "none"}
    )
    pipeline.update(changed)
    out = ask(pipeline, "language/prompt", message("What do you see?"))
    event = out["events"][0]
    jsonschema.validate(event, LANGUAGE)
    assert 0.0 < event["attention"]["prefill_sparsity"] < 1.0
    assert pipeline.status()["attention"] == "delta (theta 0.3; dense below 256 tokens)"
    assert pipeline.status()["sparsity"] == event["attention"]["sparsity"]
    with pytest.raises(LanguageError, match="not a calibration"):
        pipeline.update(parameters.replace(changed, {"delta.calibration": "/nowhere.json"}))
    assert pipeline.config.delta.calibration == "none"
    pipeline.update(parameters.replace(changed, {"attention": "dense"}))
    out = ask(pipeline, "language/prompt", message("What do you see?"))
    assert "attention" not in out["events"][0]
    assert pipeline.status()["attention"] == "dense"
