"""Judges for Arena-Hard's prompt that go by rules; the test server calls them by name."""


def shown(messages):
    """The two answers that a judge is shown."""
    asked = messages[1]["content"]
    return tuple(
        asked.partition(f"<|The Start of Assistant {name}'s Answer|>\n")[2].partition(
            f"\n<|The End of Assistant {name}'s Answer|>"
        )[0]
        for name in "AB"
    )


def prefers_longer(messages):
    """The longer answer wins, one of double length significantly; says nothing of `mute` ones."""
    first, second = map(len, shown(messages))
    if "mute" in messages[1]["content"]:
        return "I would rather not say."
    if first == second:
        label = "A=B"
    else:
        sign = ">>" if max(first, second) >= 2 * min(first, second) else ">"
        label = f"A{sign}B" if first > second else f"B{sign}A"
    return f"{first} against {second} characters. My final verdict is: [[{label}]]"
