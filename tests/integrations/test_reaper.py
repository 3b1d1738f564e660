"""The Reaper script, run by a Lua interpreter with a stand-in for Reaper's functions."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "integrations" / "reaper" / "unsilent.lua"
STAND_IN = """
calls, tracks = {}, {}
reaper = setmetatable({
  CountSelectedMediaItems = function() return selected end,
  GetSelectedMediaItem = function() return "item" end,
  GetActiveTake = function() return "take" end,
  GetMediaItemTake_Source = function() return "source" end,
  GetMediaSourceFileName = function() return "/films/it's.mp4" end,
  GetMediaItemTakeInfo_Value = function() return 1.5 end,
  GetMediaItemInfo_Value = function(_, name) return ({D_POSITION = 10, D_LENGTH = 4})[name] end,
  GetMediaItem_Track = function() return "track" end,
  GetMediaTrackInfo_Value = function() return 2 end,
  GetUserInputs = function() return true, "2,dog,7,y" end,
  CountProjectMarkers = function() return 3 end,
  EnumProjectMarkers = function(index)
    return table.unpack(({{true, false, 9, 0, "before"}, {true, false, 11, 0, "door"}, {true, true, 12, 12.5, "Marker 3"}})[index + 1])
  end,
  ExecProcess = function(command)
    calls[#calls + 1] = command
    local path = command:match("'%-%-cues' '(.-)'")
    table_of_cues = path and io.open(path):read("a")
    return answer
  end,
  InsertTrackAtIndex = function(index) tracks[#tracks + 1] = index end,
  PCM_Source_CreateFromFile = function(path) calls[#calls + 1] = path return path end,
  ShowMessageBox = function(text) shown = text end,
}, {__index = function() return function() return "thing" end end})
"""
ANSWER = '0\n{"video": "a", "out": "/films/unsilent/a.take1.mp4"}\n{"video": "a", "out": "/films/unsilent/a.take2.mp4"}\n'


@pytest.fixture
def run():
    lupa = pytest.importorskip("lupa")

    def call(selected, answer):
        lua = lupa.LuaRuntime()
        lua.globals().selected, lua.globals().answer = selected, answer
        lua.execute(STAND_IN)
        lua.execute(SCRIPT.read_text(encoding="utf-8"))
        return lua.globals()

    return call


def test_takes_are_inserted_below_the_item(run):
    state = run(1, ANSWER)
    command, *sounds = state.calls.values()
    assert command.startswith("'unsilent' 'generate' '/films/it'\\''s.mp4' '-o' '/films/unsilent' '--wav'")
    assert "'--takes' '2' '--label' 'dog' '--seed' '7' '--cues'" in command
    assert sounds == ["/films/unsilent/a.take1.wav", "/films/unsilent/a.take2.wav"]
    assert list(state.tracks.values()) == [2, 3]
    assert state.table_of_cues == "seconds,label,length\n2.500000,door,\n3.500000,,0.500000\n"


@pytest.mark.parametrize("path", ["/Träume/é 1.mp4", "C:\\user\\u00e9\\new.mp4", '/a "b"/c.mp4', "/🎬/x.mp4"])
def test_paths_have_any_signs(run, path):
    _, sound = run(1, "0\n" + json.dumps({"video": "a", "out": path})).calls.values()
    assert sound == path.removesuffix("mp4") + "wav"


def test_the_command_of_the_script_is_known(run):
    import shlex

    import typer

    from unsilent.cli.main import app

    words = shlex.split(run(1, ANSWER).calls[1])[2:]
    typer.main.get_command(app).commands["generate"].make_context("generate", words)


def test_errors_are_shown(run):
    assert run(1, "2\nunsilent: clip.mp4 is empty (0 bytes).").shown == "2\nunsilent: clip.mp4 is empty (0 bytes)."
    assert "not found" in run(1, "").shown
    assert "Select" in run(0, "").shown
