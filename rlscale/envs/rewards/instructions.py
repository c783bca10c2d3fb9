"""Whether a response follows instructions that can be checked, by the checks of IFEval and IFBench (if-verifiable)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from rlscale.config.errors import UserError
from rlscale.envs.problems.problem_maker import kept_random_state
from rlscale.envs.score import Failed, Score

_TRIED = "This is a sentence, with some words. And another one!"


class InstructionsFollowed:
    """1 if all instructions are followed, otherwise 0; the score's parts are the instructions by their id.

    A label is a row of IFEval, `{"instruction_id_list": [...], "kwargs": [{...}, ...]}`, or the list of ids alone where
    `kwargs` is another key of the row. `partial`: the share of instructions that are followed. `loose`: an instruction
    is followed too where it is without the first or last line, or without asterisks, as IFEval's loose accuracy has it.
    """

    def __init__(self, partial: bool = False, loose: bool = False) -> None:
        """UserError if the package is not installed."""
        if find_spec("if_verifiable") is None:
            raise UserError("if-verifiable is not installed: pip install 'rlscale[instructions]'")
        self._partial, self._loose = partial, loose

    def __call__(self, response: str, label: Any, info: dict[str, Any], messages: Sequence[Any] = ()) -> Score | Failed:
        """The score of what stands behind the thoughts.

        Failed where data of NLTK are not there, and where no response could be judged by the row.
        """
        from if_verifiable.common import evaluate_instructions

        said = response.rpartition("</think>")[2]
        asked = [str(message["content"]) for message in messages if message["role"] == "user"]
        try:
            try:
                names, options = _usable(label, info)
            except ValueError as error:
                return Failed(str(error))
            with kept_random_state(0):
                found, _ = evaluate_instructions(said, names, options, asked[-1] if asked else "", _checks())
        except LookupError as error:
            if (missing := _missing_data(error)) is None:
                raise
            return Failed(missing)
        followed: dict[str, list[float]] = {name: [] for name in names} if found else {name: [0.0] for name in names}
        for one in found:
            followed[one.instruction_id].append(float(one.loose_pass if self._loose else one.strict_pass))
        every = [value for values in followed.values() for value in values]
        share = sum(every) / len(every)
        parts = {name: sum(values) / len(values) for name, values in followed.items()}
        return Score(share if self._partial else float(share == 1), parts)

    def check_label(self, label: Any) -> None:
        """ValueError for an instruction that there is not, with other options, or without the data that it needs."""
        names, options = _read(label, {})
        for place, name in enumerate(names):
            given = options[place] if options else None
            with kept_random_state(0):
                try:
                    checker = _check(name, given)
                except ValueError:
                    if given is None:
                        continue  # the call will tell, which knows the options
                    raise
                try:
                    checker.check_following(_TRIED)
                except LookupError as error:
                    if (missing := _missing_data(error)) is not None:
                        raise ValueError(f"{name} {missing}") from None
                except Exception:
                    continue  # it wants the prompt, or options from another key: the call will tell


def _read(label: Any, info: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]] | None]:
    """The ids of the instructions, and the options of each, None without any. ValueError for what is not so."""
    own = label if isinstance(label, Mapping) else {"instruction_id_list": label}
    names, options = own.get("instruction_id_list"), own.get("kwargs", info.get("kwargs"))
    if not isinstance(names, list) or not names:
        raise ValueError("the label must be {instruction_id_list: [...], kwargs: [{...}, ...]}, or the list of ids")
    if unknown := next((name for name in names if not isinstance(name, str) or name not in _checks()), None):
        raise ValueError(f"there is no instruction {unknown!r}")
    if options is None:
        return list(names), None
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise ValueError(f"kwargs must be a list of {{...}}, one for each instruction, and not {str(options)[:50]!r}")
    each = list(options)
    if len(each) != len(names):
        raise ValueError(f"{len(names)} instructions have {len(each)} kwargs")
    if odd := next((one for one in each if not isinstance(one, Mapping | None)), None):
        raise ValueError(f"kwargs must be a list of {{...}}, and one of them is {str(odd)[:50]!r}")
    return list(names), [dict(one or {}) for one in each]


def _usable(label: Any, info: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The ids and options of a row. ValueError where no response could be judged by them."""
    names, given = _read(label, info)
    options = [{} for _ in names] if given is None else given
    with kept_random_state(0):
        for name, one in zip(names, options, strict=True):
            _check(name, one)
    return names, options


def _check(name: str, given: Mapping[str, Any] | None) -> Any:
    """The check with these options, None: any. ValueError for others than it has, and for none where it has some.

    The package would draw those that it is not given, and compare every response with something else.
    """
    check = _checks()[name](name)
    options = {key: value for key, value in (given or {}).items() if value is not None}
    try:
        check.build_description(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not take {given}: {error}") from None
    keys = check.get_instruction_args_keys()
    if given is not None and keys and not options:
        raise ValueError(f"{name} has no kwargs, and needs {', '.join(keys)}")
    return check


@lru_cache(maxsize=1)
def _checks() -> dict[str, Any]:
    """The class of each check by its id; importing them takes seconds."""
    import langdetect
    from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT as OF_IFBENCH
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT as OF_IFEVAL

    langdetect.DetectorFactory.seed = 0  # else the same text may be of another language the next time
    return {**OF_IFEVAL, **OF_IFBENCH}


def _missing_data(error: LookupError) -> str | None:
    """What is missing of NLTK's data, None for another error."""
    _, found, after = str(error).partition("Resource ")
    if not found or "NLTK" not in after:
        return None
    return f"needs data of NLTK: python -m nltk.downloader {after.split()[0].strip(chr(39))}"
