"""Ask about a clip: what is done, when something happened, where a hand is at the end.

python docs/examples/clip.py kitchen.mp4
"""

import sys

import egolive

clip = sys.argv[1] if len(sys.argv) > 1 else egolive.example_clip()
with egolive.load_model("nano") as model:
    print("intent:", model.ask(clip, task="intent").text)
    # nano has learned windows of up to 8 s.
    print("poured:", model.ask(clip, "pour water from the kettle into the mug", task="when", end=7).text)
    for box in model.ask(clip, "right hand", task="ground").boxes:
        print(f"{box.label}: {box.x1:.0f}, {box.y1:.0f} to {box.x2:.0f}, {box.y2:.0f}")
