"""Rows with a question for a box or an interval as the samples of GRPO, read as they are needed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from egolive.assistant.schema.answers import Question
from egolive.assistant.schema.engine import Vision
from egolive.assistant.schema.profiles import Profile
from egolive.train.data.row_files import RowMix
from egolive.train.data.row_media import Sampling, Shown, show
from egolive.train.data.rows import Row, RowError, Tally
from egolive.train.finetune.samples import Sample
from egolive.train.finetune.window_processor import Seen, blank

__all__ = ["RowSamples", "only_questions"]


def only_questions(mix: RowMix, tally: Tally) -> RowMix:
    """The rows of a mix that ask for a box or an interval; the others are reported and counted."""
    kept = []
    for number in range(len(mix)):
        row = mix[number]
        if row.question is not None and row.question.task in ("ground", "when"):
            kept.append(number)
        else:
            tally.add(RowError(row.where, "no question for a box or an interval, which GRPO needs"))
    return RowMix(mix.files, mix.order[kept])


class RowSamples:
    """The rows of a mix in their order, from the beginning again where they are used up.

    A row whose picture or video turns out to be broken is reported and counted, and no other row takes its
    place: its sample is a blank picture to which no reward applies.
    """

    def __init__(
        self,
        mix: RowMix,
        media: Path,
        profile: Profile,
        sampling: Sampling,
        *,
        count: int,
        think: bool,
        checked: Tally | None = None,
    ) -> None:
        """Take what to ask about.

        Args:
            mix: rows with questions.
            media: folder that their paths start from.
            profile: of the model that is asked.
            sampling: frames of a video.
            count: samples in all.
            think: ask for reasoning, where the profile knows how.
            checked: the rows that were left out before training.
        """
        self.mix = mix
        self.media = media
        self.profile = profile
        self.sampling = sampling
        self.count = count
        self.think = think and profile.think_prompts is not None
        self.tally = Tally()
        self.checked = checked or Tally()
        self.broken: set[str] = set()
        """Where the rows stand that turned out to be broken."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        row = self.mix[number % len(self.mix)]
        question = row.question
        assert question is not None, "only rows with a question are taken"
        try:
            shown = self._show(row)
        except RowError as error:
            if row.where not in self.broken:
                self.broken.add(row.where)
                self.tally.add(error)
            return Sample(question, Seen(blank), (1, 1), broken=True)
        return Sample(
            Question(question.task, question.phrase, self.think),
            Seen(partial(_first, row, self.media, self.profile, self.sampling), shown.visions[0]),
            shown.size,
            box=row.box,
            interval=row.interval,
            duration=shown.window.duration if shown.window else 0.0,
            seen_size=shown.seen_size,
        )

    def _show(self, row: Row) -> Shown:
        shown = show(row, self.media, self.profile, self.sampling)
        if row.question is not None and row.question.task == "when" and shown.window is None:
            raise RowError(row.where, "a question about time, and no video")
        return shown


def _first(row: Row, media: Path, profile: Profile, sampling: Sampling) -> Vision:
    return show(row, media, profile, sampling).visions[0]
