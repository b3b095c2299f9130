"""Ask the same question about many clips; all of them are answered together, one JSON line each.

python docs/examples/batch_of_clips.py clips/*.mp4 > answers.jsonl
"""

import json
import sys

import egolive

text = {"type": "text", "text": "What is the wearer doing?"}
videos = [{"type": "video", "video": clip, "nframes": 8} for clip in sys.argv[1:]]
chats = [[{"role": "user", "content": [video, text]}] for video in videos]
with egolive.load_model("nano") as model:
    for clip, answer in zip(sys.argv[1:], model.ask(chats), strict=True):
        print(json.dumps({"clip": clip, "text": answer.text}))
