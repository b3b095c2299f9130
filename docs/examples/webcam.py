"""Watch a camera: print what its wearer does, keep the newest picture with its boxes in a file.

python docs/examples/webcam.py 0 latest.jpg
"""

import sys

import cv2

import egolive

source, picture = sys.argv[1:3] if len(sys.argv) > 2 else ("0", "latest.jpg")
with egolive.load_model("nano") as model, egolive.open_source(source) as camera:
    for result in model.stream(camera, tasks=["intent", "next", "hands"]):
        if result.new:
            print(f"{result.time:.1f} s: {result.intent}; next: {result.next} ({result.age:.1f} s old)")
            cv2.imwrite(picture, result.annotated())
