"""Call attention to a moment: a hand is at the thing that is named.

python docs/examples/alerts.py kitchen.mp4 knife
"""

import sys

import egolive

source, thing = sys.argv[1:3]
with egolive.load_model("nano") as model:
    for result in model.stream(source, tasks=["hands", thing]):
        hands = [box for box in result.boxes if box.label != thing]
        at = [hand.label for box in result.boxes if box.label == thing for hand in hands if hand.iou(box) > 0]
        if result.new and at:
            print(f"{result.time:.1f} s: {' and '.join(at)} at the {thing}")
