"""Prompts for posters, endless and seeded: prompt i is a function of (seed, i) alone. Ours, not the paper's.

One sentence a slot: style and layout, the title in quotes and in one of six languages with its typography, a line of
small print, the picture, the colours. Titles belong together with their occasion, so that text and picture agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

LANGUAGES = ("English", "Spanish", "French", "German", "Chinese", "Japanese")
SHARES = (0.4, 0.1, 0.1, 0.1, 0.2, 0.1)
"""How often a title is in each of `LANGUAGES`."""
OCCASIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("a jazz night", "a saxophone player under one warm lamp"): (
        "Jazz Night", "Noche de Jazz", "Nuit du Jazz", "Jazznacht", "爵士之夜", "ジャズの夜"),
    ("a film festival", "an old projector throwing a beam of light"): (
        "Film Festival", "Festival de Cine", "Festival du Film", "Filmfestival", "电影节", "映画祭"),
    ("a book fair", "a tower of open books turning into birds"): (
        "Book Fair", "Feria del Libro", "Salon du Livre", "Buchmesse", "书展", "ブックフェア"),
    ("a coffee house", "a steaming cup seen from above"): (
        "Fresh Coffee", "Café Recién Hecho", "Café Frais", "Frischer Kaffee", "新鲜咖啡", "挽きたてコーヒー"),
    ("a marathon", "runners crossing a bridge at sunrise"): (
        "City Marathon", "Maratón de la Ciudad", "Marathon de la Ville", "Stadtmarathon", "城市马拉松",
        "シティマラソン"),
    ("a science museum", "a brass planetarium with floating planets"): (
        "Discover the Stars", "Descubre las Estrellas", "Découvrez les Étoiles", "Entdecke die Sterne", "探索星空",
        "星を探そう"),
    ("a spring market", "baskets of tulips and lemons on a wooden stall"): (
        "Spring Market", "Mercado de Primavera", "Marché de Printemps", "Frühlingsmarkt", "春季市集", "春の市場"),
    ("a mountain railway", "a red train on a stone viaduct between peaks"): (
        "Above the Clouds", "Sobre las Nubes", "Au-dessus des Nuages", "Über den Wolken", "云端之上", "雲の上へ"),
    ("a theatre premiere", "two masks on an empty stage"): (
        "Opening Night", "Noche de Estreno", "Soirée de Première", "Premierenabend", "首演之夜", "初演の夜"),
    ("an ocean campaign", "a whale made of blue paper waves"): (
        "Save the Ocean", "Salvemos el Océano", "Sauvons l'Océan", "Rettet das Meer", "保护海洋", "海を守ろう"),
    ("a winter fair", "a lit carousel in falling snow"): (
        "Winter Lights", "Luces de Invierno", "Lumières d'Hiver", "Winterlichter", "冬日灯火", "冬のあかり"),
    ("a bicycle repair shop", "a bicycle taken apart into neat rows"): (
        "Ride Again", "Vuelve a Rodar", "Roulez Encore", "Wieder in Fahrt", "重新上路", "もう一度走ろう"),
    ("a chess tournament", "a king and a queen casting long shadows"): (
        "Grand Tournament", "Gran Torneo", "Grand Tournoi", "Großes Turnier", "国际象棋大赛", "チェス大会"),
    ("a botanical garden", "oversized leaves around a glass house"): (
        "Green Hours", "Horas Verdes", "Heures Vertes", "Grüne Stunden", "绿色时光", "緑の時間"),
}  # fmt: skip
"""(occasion, picture) -> its title in each of `LANGUAGES`."""
STYLES = (
    "A minimalist poster", "An Art Deco poster", "A Bauhaus poster", "A Swiss style poster", "A woodcut poster",
    "A risograph poster", "A vintage travel poster", "A photographic poster", "A watercolour poster",
    "A paper collage poster", "A flat vector poster", "A pop art poster",
)  # fmt: skip
LAYOUTS = (
    "with the title across the top third", "with the title at the bottom over an empty margin",
    "on a strict three-column grid", "with a diagonal split from corner to corner", "centred inside a thick frame",
    "with the title running up the left edge", "with text wrapped around a central circle",
    "with the picture full bleed and the title in a box", "in two halves, text above and picture below",
    "with small text in all four corners",
)  # fmt: skip
FACES = (
    "bold sans-serif capitals", "a condensed grotesque", "a high-contrast serif", "hand-painted brush letters",
    "rounded neon tubes", "slab-serif wood type", "thin geometric letters", "a flowing script", "stencil letters",
    "pixel letters",
)  # fmt: skip
COLOURS = (
    "black and warm white", "deep navy and gold", "coral and teal", "forest green and cream", "red, black and beige",
    "pastel pink and mint", "mustard and charcoal", "cobalt blue and orange", "lavender and silver",
    "earth tones with one spot of yellow",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def posters(seed: int) -> Iterator[str]:
    """Prompt 0, 1, 2, ... of `seed`; now and then one comes again."""
    return (poster(seed, index) for index in count())


def poster(seed: int, index: int) -> str:
    """Prompt number `index`."""
    rng = np.random.default_rng([seed, index])
    (occasion, picture), titles = list(OCCASIONS.items())[rng.integers(len(OCCASIONS))]
    language = int(rng.choice(len(LANGUAGES), p=SHARES))
    style, layout, face, colours = (
        options[rng.integers(len(options))] for options in (STYLES, LAYOUTS, FACES, COLOURS)
    )
    date = f"{rng.integers(1, 29)} {MONTHS[rng.integers(len(MONTHS))]}"
    lines = (
        f'Small print reads "{date}".',
        f'A line below reads "{rng.integers(7, 23)}:30".',
        "There is no other text.",
    )
    return (
        f'{style} for {occasion}, {layout}. The title "{titles[language]}" is set in {face}, '
        f"in {LANGUAGES[language]}. {lines[rng.integers(len(lines))]} It shows {picture}, in {colours}."
    )
