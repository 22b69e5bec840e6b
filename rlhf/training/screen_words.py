"""The short word lists of the screening. They are meant to be read, and added to.

They find what is said bluntly in six languages, and nothing that is implied, misspelt or said in another one.
Words that are harmless in another of these languages ("retard"), or more often than not ("bastard", "dumm"), are
not in them.
"""

from __future__ import annotations

TOXIC = {
    "en": ("asshole", "bitch", "cunt", "dickhead", "faggot", "fucker", "fucking idiot",
           "motherfucker", "nigger", "slut", "whore", "kill yourself", "piece of shit", "go to hell"),
    "de": ("arschloch", "fotze", "hurensohn", "missgeburt", "schlampe", "wichser", "bring dich um",
           "drecksau", "kanake"),
    "fr": ("connard", "connasse", "enculé", "fils de pute", "salope", "ta gueule", "va te faire foutre",
           "bougnoule"),
    "es": ("cabrón", "gilipollas", "hijo de puta", "maricón", "puta madre", "vete a la mierda", "mátate"),
    "pt": ("arrombado", "caralho", "filho da puta", "vai se foder", "viado"),
    "ru": ("пидор", "сука блядь", "ублюдок", "убей себя", "шлюха"),
}  # fmt: skip

# What is to be done, and of what: within forty characters of each other.
UNSAFE = [
    (r"how (?:to|do i|can i|would i)|steps to|instructions (?:for|to)|recipe for|guide to",
     r"(?:pipe|nail|dirty|car) bomb|molotov cocktail|nerve agent|sarin|ricin|napalm|"
     r"(?:cook|make|synthesi[sz]e) meth|untraceable gun|child porn|"
     r"kill (?:myself|a person|someone|my (?:wife|husband|parents))|poison (?:my|a|someone)"),
    (r"wie (?:man|kann ich|baue ich|mache ich)|anleitung (?:für|zu[mr]?)",
     r"rohrbombe|molotow-?cocktail|nervengas|sarin|rizin|kinderporno\w*|mich umbring\w*|jemanden? (?:töte|umbring|vergift)\w*"),
    (r"comment (?:fabriquer|faire|puis-je)|recette (?:de|pour)",
     r"bombe artisanale|cocktail molotov|gaz (?:sarin|neurotoxique)|ricine|me suicider|tuer (?:quelqu'un|ma|mon)"),
    (r"c[oó]mo (?:hacer|puedo|fabricar|se hace)|receta (?:de|para)",
     r"bomba casera|c[oó]ctel molotov|gas sar[ií]n|ricina|suicidarme|matar a (?:alguien|mi)"),
]  # fmt: skip
