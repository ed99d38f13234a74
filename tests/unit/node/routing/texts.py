"""Texts of every kind that a prompt may hold, for comparing estimates with real tokenizers."""

from __future__ import annotations

import base64
import inspect
import json
import random
import string
from collections.abc import Callable

_CHANCE = random.Random(1)


def _numbers(write: Callable[[], object], count: int, between: str = ",") -> str:
    return between.join(str(write()) for _ in range(count))


PROSE = {
    "english": "The quick brown fox jumps over the lazy dog, while the committee considers its answer. " * 20,
    "german": "Die Donaudampfschifffahrtsgesellschaft hat beschlossen, ihre Fahrpläne zu überarbeiten. " * 20,
    "polish": "Zażółć gęślą jaźń, proszę natychmiast przynieść święte źródło żółtej łódki. " * 20,
    "vietnamese": "Hôm nay thời tiết rất đẹp, chúng ta hãy cùng đi dạo trong công viên nhé. " * 20,
    "russian": "Сегодня очень хорошая погода, давайте прогуляемся в парке. " * 30,
    "arabic": "الطقس جميل جدا اليوم، هيا نتمشى في الحديقة. " * 30,
    "hebrew": "מזג האוויר היום יפה מאוד, בואו נטייל בפארק. " * 30,
    "chinese": "今天天气很好，我们一起去公园散步吧。人工智能正在改变世界的面貌。" * 30,
    "japanese": "今日はとても良い天気なので、公園を散歩しましょう。" * 30,
    "korean": "오늘은 날씨가 아주 좋으니 공원에서 산책합시다. " * 30,
    "hindi": "आज मौसम बहुत अच्छा है, चलो पार्क में टहलने चलते हैं। " * 30,
    "thai": "วันนี้อากาศดีมาก ไปเดินเล่นที่สวนสาธารณะกันเถอะ" * 30,
    "tamil": "இன்று வானிலை மிகவும் நன்றாக உள்ளது, பூங்காவில் நடக்கலாம். " * 30,
}
"""Where an estimate should be close, too: people send this."""

DENSE = {
    "python": inspect.getsource(random)[:8000],
    "json": json.dumps([{"id": i, "name": f"user{i}", "score": _CHANCE.random()} for i in range(100)]),
    "integers": _numbers(lambda: _CHANCE.randint(0, 100_000), 1000),
    "floats": _numbers(_CHANCE.random, 300),
    "matrix": "\n".join(_numbers(lambda: _CHANCE.randint(0, 9), 20) for _ in range(50)),
    "base64": base64.b64encode(_CHANCE.randbytes(3000)).decode(),
    "hex": _CHANCE.randbytes(2000).hex(),
    "table": "| a | b | c |\n|---|---|---|\n" + "| 1 | 2.5 | foo |\n" * 80,
    "csv": "\n".join(f"{_CHANCE.randint(1, 9999)},{_CHANCE.random():.4f},abc" for _ in range(200)),
    "log": '2026-11-25T19:36:22+00:00 INFO id=6b26877d1f573dbc "GET / HTTP/1.1" status=429 bytes=181\n' * 20,
    "latex": r"\frac{\partial u}{\partial t} = \alpha \nabla^2 u + \int_0^\infty e^{-x^2} dx " * 20,
    "punctuation": "".join(_CHANCE.choice("!@#$%^&*()_+-=[]{};:,.<>/?|~") for _ in range(2000)),
    "capitals": "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS AWAY. " * 30,
    "letters": "".join(_CHANCE.choice(string.ascii_letters) for _ in range(3000)),
    "lower case": "".join(_CHANCE.choice(string.ascii_lowercase) for _ in range(3000)),
    "white space": "\n\n   \t\t  " * 200,
    "emoji": "😀🎉🚀👩\u200d💻🔥🥳🤖🌍✨" * 50,
    "georgian": "დღეს ძალიან კარგი ამინდია, მოდით პარკში გავისეირნოთ. " * 30,
    "burmese": "ဒီနေ့ ရာသီဥတု အလွန်ကောင်းတယ် ပန်းခြံထဲမှာ လမ်းလျှောက်ကြရအောင်" * 30,
}
"""Where a token has few bytes."""

HARD = {
    "single digits": _numbers(lambda: _CHANCE.randint(0, 9), 2000, " "),
    "amharic": "ዛሬ አየሩ በጣም ጥሩ ነው፣ በፓርኩ ውስጥ እንራመድ። ሰው ሰራሽ አስተውሎት ዓለምን እየቀየረ ነው። " * 30,
    "cherokee": "ᎣᏏᏲ ᎠᏂᎩᏚᏩᎩ ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ " * 30,
}
"""Where the weight is known to fall short."""
