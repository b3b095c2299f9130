"""Grammars of answers: the form of boxes and intervals, and a token limit for reasoning.

The forms are those that `egolive.assistant.prompts.prompts` writes and that EgoThinker was trained to say;
answers are parsed by `egolive.assistant.prompts.parsing`. Only the form is constrained, not what the
numbers mean: an empty box or a reversed interval stays what the model said, where another number would be an
invented answer. Everything works without xgrammar too; answers are then free, as `egolive doctor` tells.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from egolive.assistant.schema.answers import Question, Task
from egolive.assistant.schema.engine import Engine
from egolive.assistant.schema.profiles import Profile

if TYPE_CHECKING:
    import torch
    import xgrammar

    from egolive.assistant.schema.tokenizer import Tokenizer

__all__ = ["THINK_TOKENS", "GrammarMatchers", "XGrammarMatcher", "matchers_of"]

THINK_TOKENS = 960
"""Tokens after which reasoning is closed. With the tags and the longest box, an answer to a question of place
or time stays below 1,072 tokens."""

_log = logging.getLogger(__name__)
_OPEN, _CLOSE = b"<think>", b"</think>"
_CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_THOUSANDTHS = '"0" | "1000" | [1-9] [0-9]{0,2}'
_SHARES = '[01] | "0." [0-9]{1,6} | "1." "0"{1,6}'
_NUMBERS = {
    "norm1000": (_THOUSANDTHS,),
    "norm1": (_SHARES,),
    "pixels": ('"0" | [1-9] [0-9]{0,4}',),
    # One answer keeps to one unit.
    "auto": (_THOUSANDTHS, _SHARES),
}
"""Coordinates of each unit, in xgrammar's EBNF like all grammars here."""


class GrammarMatchers:
    """The grammars of one checkpoint, each compiled once; any number of answers follow them at once."""

    def __init__(self, tokenizer: Tokenizer, profile: Profile) -> None:
        """Read the vocabulary; half a second for the 151,657 tokens of Qwen2-VL.

        Args:
            tokenizer: The checkpoint's.
            profile: The checkpoint's, which says how it writes.
        """
        self._tokenizer = tokenizer
        self._profile = profile
        self._compiled: dict[tuple[Task, str], xgrammar.CompiledGrammar] = {}
        self._compiler = _compiler(tokenizer)

    def matcher(
        self, question: Question, think: bool, *, think_tokens: int = THINK_TOKENS
    ) -> XGrammarMatcher | None:
        """A grammar matcher for one answer.

        Args:
            question: What is asked; its task decides the form.
            think: Whether the answer begins with reasoning, where the profile knows how.
            think_tokens: Tokens after which the reasoning is closed, its opening tag counted.

        Returns:
            The matcher, or None where the answer is free: words without reasoning, or no xgrammar.
        """
        form = _form(question.task, self._profile, self._tokenizer)
        think = think and self._profile.think_prompts is not None
        if self._compiler is None or not (form or think):
            return None
        if not think:
            return XGrammarMatcher(self._grammar(question.task, "answer", _answer(form)))
        tagged = _tagged_answer(form)
        reasoning = {
            "type": "tag",
            "begin": _OPEN.decode(),
            "content": {"type": "any_text"},
            "end": _CLOSE.decode(),
        }
        return XGrammarMatcher(
            self._grammar(question.task, "reasoning", [reasoning, *tagged]),
            closing=self._grammar(question.task, "closing", [_rule(json.dumps(_CLOSE.decode())), *tagged]),
            think_tokens=think_tokens,
            tokenizer=self._tokenizer,
        )

    def _grammar(self, task: Task, part: str, elements: list[dict[str, Any]]) -> xgrammar.CompiledGrammar:
        assert self._compiler is not None
        if (task, part) not in self._compiled:
            tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}
            self._compiled[task, part] = self._compiler.compile_structural_tag(tag)
        return self._compiled[task, part]


class XGrammarMatcher:
    """Holds one answer to its grammar; a `GrammarMatcher`."""

    def __init__(
        self,
        grammar: xgrammar.CompiledGrammar,
        *,
        closing: xgrammar.CompiledGrammar | None = None,
        think_tokens: int = 0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            grammar: Of the whole answer.
            closing: Of the answer from `</think>` on, where reasoning is bounded.
            think_tokens: Tokens after which `closing` holds.
            tokenizer: Tells the text of tokens, where reasoning is bounded.
        """
        import xgrammar

        self._new_matcher = xgrammar.GrammarMatcher
        self._matcher = self._new_matcher(grammar)
        self._allowed = xgrammar.allocate_token_bitmask(1, grammar.tokenizer_info.vocab_size)
        self._vocabulary = grammar.tokenizer_info.vocab_size
        self._closing = closing
        self._think_tokens = think_tokens
        self._tokenizer = tokenizer
        self._text = bytearray()
        self._ends: list[int] = []
        """Length of the text after each token."""
        self._forced: xgrammar.GrammarMatcher | None = None
        self._forced_from = 0
        """Tokens before the forced closing."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete: no token may follow."""
        return self._current.is_terminated()

    def mask(self, logits: torch.Tensor) -> None:
        """Set the logits of all tokens that may not come next to -inf, in place.

        After the end of the answer nothing is changed.

        Args:
            logits: (vocabulary,) float32, of any device; may have more rows than there are tokens.
        """
        import torch

        if self.finished:
            return
        self._current.fill_next_token_bitmask(self._allowed)
        # 32 tokens a word, the first in its lowest bit.
        words = self._allowed.numpy().view(np.uint8)
        blocked = torch.from_numpy(np.unpackbits(words, bitorder="little")[: self._vocabulary] == 0)
        logits[: self._vocabulary].masked_fill_(blocked.to(logits.device, non_blocking=True), -torch.inf)
        logits[self._vocabulary :] = -torch.inf

    def accept(self, token: int) -> None:
        """Step on by the token that was chosen.

        Raises:
            ValueError: The token may not come next.
        """
        if not self._current.accept_token(token):
            raise ValueError(f"token {token} may not come next in this answer")
        self._ends.append(len(self._text))
        if self._closing is None or self._tokenizer is None:
            return
        self._text += self._tokenizer.token_bytes(token)
        self._ends[-1] = len(self._text)
        if len(self._ends) >= self._think_tokens and self._forced is None and self._thinks():
            self._force_closing(self._closing)

    def rollback(self, n: int) -> None:
        """Take back the last `n` tokens that were accepted.

        Raises:
            ValueError: There are not as many.
        """
        if not 0 <= n <= len(self._ends):
            raise ValueError(f"{n} tokens cannot be taken back, {len(self._ends)} were accepted")
        left = len(self._ends) - n
        if self._forced is not None and left < self._forced_from:
            n = self._forced_from - left
            self._forced = None
        if n:
            self._current.rollback(n)
        del self._ends[left:]
        del self._text[self._ends[-1] if self._ends else 0 :]

    @property
    def _current(self) -> xgrammar.GrammarMatcher:
        return self._forced or self._matcher

    def _thinks(self) -> bool:
        """Whether the answer so far ends inside the reasoning."""
        return _OPEN in self._text and _CLOSE not in self._text

    def _force_closing(self, closing: xgrammar.CompiledGrammar) -> None:
        """From now on only the closing tag and the answer may follow."""
        self._forced = self._new_matcher(closing)
        self._forced_from = len(self._ends)
        # A closing tag that the model has begun itself is not begun a second time.
        begun = next(n for n in range(len(_CLOSE) - 1, -1, -1) if self._text.endswith(_CLOSE[:n]))
        if begun:
            self._forced.accept_string(_CLOSE[:begun])


def matchers_of(engine: Engine, profile: Profile) -> GrammarMatchers | None:
    """The grammars of an engine's answers; None where it keeps its tokens to itself.

    Args:
        engine: Its tokenizer is read once for all that ask.
        profile: As its answers are read.
    """
    return None if engine.tokenizer is None else _matchers(engine.tokenizer, profile)


@lru_cache(maxsize=4)
def _matchers(tokenizer: Tokenizer, profile: Profile) -> GrammarMatchers:
    return GrammarMatchers(tokenizer, profile)


def _compiler(tokenizer: Tokenizer) -> xgrammar.GrammarCompiler | None:
    """What turns grammars into masks over this vocabulary; None where xgrammar is not to be had."""
    try:
        # Here and not above: a command that answers nothing does not wait for it.
        import xgrammar
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        _log.warning("answers are not held to their form: xgrammar cannot be imported (%s)", reason)
        return None
    vocabulary = [tokenizer.token_bytes(token) for token in range(len(tokenizer))]
    # To xgrammar a token without bytes is one that never comes, unless it is one that ends the answer.
    ids = (tokenizer.encode(name) for name in _CONTROL)
    control = {found[0] for found in ids if len(found) == 1} | tokenizer.vision_tokens | tokenizer.eos
    for token in control:
        vocabulary[token] = b""
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=sorted(tokenizer.eos))
    return xgrammar.GrammarCompiler(info, max_threads=1)


def _answer(form: str) -> list[dict[str, Any]]:
    """An answer that is nothing but the form."""
    return [{"type": "grammar", "grammar": form}]


def _tagged_answer(form: str) -> list[dict[str, Any]]:
    """What follows the reasoning: the form in answer tags, or any text after the opening one."""
    if not form:
        return [_rule('[ \\n]{0,2} "<answer>"'), {"type": "any_text"}]
    return [_rule('[ \\n]{0,2} "<answer>" "\\n"?'), *_answer(form), _rule('"\\n"? "</answer>" "\\n"?')]


def _rule(expression: str) -> dict[str, Any]:
    return {"type": "grammar", "grammar": f"root ::= {expression}"}


def _form(task: Task, profile: Profile, tokenizer: Tokenizer) -> str:
    """The grammar of a task's bare answer; empty where it is words.

    What the project trains writes exactly what `render_answer` writes. In the style `list` answers the model
    of others: it may also put a space after each comma, leave out decimals, write Qwen2-VL's own box tokens
    with the name of what they mark, and say "None.".
    """
    loose = profile.answer_style == "list"
    if task == "ground":
        rules = _box_rules(profile, tokenizer, loose)
    elif task == "when":
        rules = _interval_rules(profile, loose)
    else:
        return ""
    none = '("none" | "None") "."?' if loose else '"none"'
    comma = '"," " "?' if loose else '","'
    return "\n".join([*rules, f"none ::= {none}", f"comma ::= {comma}", ""])


def _box_rules(profile: Profile, tokenizer: Tokenizer, loose: bool) -> list[str]:
    def mark(name: str) -> str:
        # As a token, where there is one: its text in pieces means nothing to a model.
        ids = tokenizer.encode(name)
        return f"Token({ids[0]})" if len(ids) == 1 else json.dumps(name)

    begin, end = mark("<|box_start|>"), mark("<|box_end|>")
    rules, answers = [], ["none"]
    label = ""
    if loose:
        rules.append(f"label ::= {mark('<|object_ref_start|>')} [^<>\\n]+ {mark('<|object_ref_end|>')}")
        label = "label? "
    for place, number in enumerate(_NUMBERS[profile.unit]):
        pair = f'"(" n{place} comma n{place} ")"'
        rules += [f"n{place} ::= {number}", f"span{place} ::= {label}{begin} {pair} comma {pair} {end}"]
        answers.append(f"span{place}+")
        if loose:
            rules.append(f'list{place} ::= "[" n{place} (comma n{place}){{3}} "]"')
            answers += [f"list{place}", f'"[" list{place} (comma list{place})* "]"']
    return [f"root ::= {' | '.join(answers)}", *rules]


def _interval_rules(profile: Profile, loose: bool) -> list[str]:
    decimals = profile.time_decimals
    if loose:
        fraction = f'("." [0-9]{{1,{max(decimals, 3)}}})?'
    else:
        fraction = f'"." [0-9]{{{decimals}}}' if decimals else '""'
    return [
        "root ::= none | stretch (comma stretch)*",
        'stretch ::= "(" seconds comma seconds ")"',
        f'seconds ::= ("0" | [1-9] [0-9]{{0,4}}) {fraction}',
    ]
