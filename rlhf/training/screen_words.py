# ruff: noqa: RUF001 (words in several scripts)
"""The short word lists of the screening, as regular expressions. They are meant to be read, and added to.

They find what is said bluntly in twelve languages, and nothing that is implied, misspelt or said in another one.
Words that are harmless in another of these languages ("retard"; "slut", which ends Swedish films), or more often
than not ("bastard", "dumm"), are only in them beside words that make them plain.
"""

from __future__ import annotations

PEOPLE = (
    r"(?:myself|yourself|a person|a human|people|(?:someone|somebody)(?!['’]s)|(?:my|your|his|her) (?:wife|husband|parents?|"
    r"mother|father|mom|dad|brother|sister|girlfriend|boyfriend|ex|boss|teacher|classmates?|roommate|neighbou?rs?|"
    r"family|child|kids?|baby))(?!['’]s| process)"
)
POISONS = (
    r"(?:ricin(?!-)|sarin|vx gas|nerve (?:agent|gas)|mustard gas|napalm|anthrax|molotov cocktails?)"
)
DRUGS = r"(?:crystal )?(?:meth|methamphetamine|fentanyl|heroin|mdma|crack cocaine)"

# Between spaces, with the endings of a plural.
TOXIC = {
    "en": (r"assholes?", r"cunt", r"dickhead", r"fucker", r"fucking (?:idiot|bitch|whore)", r"motherfucker",
           r"nigger", r"whore", r"kill yourself", r"piece of shit", r"go to hell",
           r"faggot(?!s and peas|s? in gravy)", r"son of a bitch",
           r"(?:you|your|stupid|dumb|ugly|little|filthy|dirty) (?:\w+ )?(?:bitch|slut|retard)"),
    "de": (r"arschloch", r"fotze", r"hurensohn", r"missgeburt", r"schlampe", r"wichser", r"bring dich um",
           r"drecksau", r"kanake"),
    "fr": (r"connard", r"connasse", r"enculé", r"fils de pute", r"salope", r"ta gueule", r"va te faire foutre",
           r"bougnoule", r"sale (?:pute|arabe|juif|nègre)"),
    "es": (r"cabrón", r"gilipollas", r"hijo de puta", r"maricón", r"puta madre", r"vete a la mierda", r"mátate"),
    "pt": (r"arrombado", r"caralho", r"filho da puta", r"vai se foder", r"viado", r"se mata, (?:seu|sua)"),
    "it": (r"stronzo", r"figlio di puttana", r"vaffanculo", r"testa di cazzo", r"ammazzati"),
    "ru": (r"пидор", r"сука блядь", r"ублюдок", r"убей себя", r"шлюха", r"иди на ?хуй"),
}  # fmt: skip
# In scripts without spaces between words, or where small words and endings are written together with others.
TOXIC_ANYWHERE = {
    "zh": (r"傻逼", r"操你妈", r"肏你", r"婊子", r"王八蛋", r"去死吧"),
    "ja": (r"くそったれ", r"クソ野郎", r"死ねよ", r"ぶっ殺す", r"くたばれ"),
    "ko": (r"씨발", r"개새끼", r"병신아", r"뒈져"),
    "ar": (r"ابن الشرموطة", r"يا شرموطة", r"ابن الكلب", r"كس أمك"),
    "hi": (r"मादरचोद", r"बहनचोद", r"भोसड़ी", r"हरामज़ादे|हरामजादे"),
}  # fmt: skip

# What is to be done, and of what: in this order, within forty characters of each other.
UNSAFE = [
    # English
    (r"how (?:to|(?:do|can|could|would|should) (?:i|you|we|one))|ways? (?:to|of)|steps (?:to|for)|instructions? (?:for|to|on)|"
     r"(?:recipe|guide|tutorial) (?:for|to|on)|(?:teach|tell|show|help|give) me|explain how|i want to|where (?:can|do) i",
     r"(?:mak|build|construct|assembl|detonat|plant)(?:e|ing)? (?:an? |the |some )?(?:(?:pipe|nail|dirty|car|fertili[sz]er|home-?made|"
     r"letter|nuclear|real|simple|small|suicide) )*bombs?(?! (?:shelter|cyclone|calorimeter|disposal|squad|detector|in (?:a |the )?(?:game|minecraft|fortnite)))|"
     rf"(?:pipe|nail|dirty|car) bomb|(?:mak|produc|synthesi[sz]|extract|cook|brew)(?:e|ing)? (?:\w+ )?(?:{POISONS}|{DRUGS})|"
     rf"(?:buy|get|order) (?:\w+ )?(?:{DRUGS}|child porn)|child porn|untraceable gun|guns? (?:illegally|without a (?:licen[sc]e|background check|permit))|"
     rf"(?:kill|murder|poison|strangle) {PEOPLE}|commit suicide|end my (?:own )?life|hang myself|"
     r"(?:hack|break) (?:into )?(?:\S+ ){1,2}(?:phone|account|e-?mails?|facebook|instagram|whatsapp|bank|webcam|computer)|"
     r"(?:mak|print|get)(?:e|ing)? (?:\w+ )?(?:counterfeit|fake) (?:money|passports?|banknotes)|launder money|"
     r"steal (?:someone|somebody|a neighbou?r|my neighbou?r)['’]s (?:identity|credit card|car|password)|"
     r"rape (?:a|my|someone)"),
    (r"(?:recipe|instructions?|formula) for|synthesis of", rf"{POISONS}|{DRUGS}"),
    # German
    (r"wie (?:man|kann (?:ich|man)|\w+ (?:ich|man))|anleitung(?:en)? (?:für|zu[mr]?)|ich will|zeig mir|hilf mir|wo kann ich",
     r"rohrbomben?|(?:eine|ne) \w*bombe (?:selbst )?(?:bau|bastel|herstell)\w*|molotow-?cocktail|nervengas|sarin|rizin (?:herstell|mach|gewinn)\w*|"
     r"kinderporno\w*|mich um(?:bring|zubring)\w*|(?:jemanden?|mein\w* (?:frau|mann|nachbarn?|chef|eltern|mutter|vater)) (?:zu )?(?:töte|umbring|vergift)\w*|selbstmord begeh\w*|"
     r"(?:meth|heroin|crystal) (?:herstell|koch|kauf)\w*|(?:handy|konto|account|e-?mails?|computer) \w+ \w*hack\w*|(?:handy|konto|account|computer) (?:\w+ )?hack\w*"),
    (r"wie (?:baue?|bastle|bastele|mache?) (?:ich|man)", r"(?:eine|ne) (?:rohr|nagel|brief|auto)?bombe"),
    (r"wie hacke (?:ich|man)|wie (?:töte|vergifte|ermorde) ich|wie (?:koche|mache) ich",
     r"(?:handy|konto|account|computer)|meine?n? (?:frau|mann|nachbarn?|chef|freundin|eltern)|jemanden|crystal|meth"),
    # French
    (r"comment|recettes? (?:de|pour)|je veux|aide-moi à|où (?:puis-je )?acheter",
     r"(?:fabriquer|faire|construire) une bombe(?! glacée)|bombe artisanale|cocktail molotov|gaz (?:sarin|neurotoxique)|(?:de la|avec de la) ricine|me suicider|"
     r"tuer (?:quelqu['’]un|ma (?:femme|mère|voisine)|mon (?:mari|père|voisin|patron))|"
     r"pirater (?:\S+ ){1,2}?(?:compte|téléphone|ordinateur)|(?:de la méthamphétamine|de l['’]héroïne)"),
    # Spanish
    (r"c[oó]mo|receta (?:de|para)|quiero|ens[eé][ñn]ame a|d[oó]nde puedo",
     r"(?:hacer|hago|fabricar|fabrico|construir|construyo) una bomba(?! de (?:agua|calor|aire|vacío|baño))|bomba casera|c[oó]ctel molotov|gas sar[ií]n|(?:hacer|fabricar) ricina|suicidarme|"
     r"matar a (?:alguien|mi (?:esposa|mujer|marido|vecino|jefe|madre|padre))|hackear (?:\S+ ){1,2}(?:tel[eé]fono|cuenta|correo|celular|m[oó]vil)|(?:hacer|fabricar|cocinar|comprar) (?:metanfetamina|hero[ií]na)"),
    # Portuguese
    (r"como|receita (?:de|para)|quero|ensina-?\s?me a|onde posso",
     r"(?:fazer|faço|fabricar|construir) uma bomba(?! (?:de (?:água|calor|ar|chocolate|banho)|d['’]água))|bomba caseira|coquetel molotov|gás sarin|(?:fazer|fabricar) ricina|me (?:matar|suicidar)|me mato|"
     r"matar (?:alguém|(?:a )?minha (?:esposa|mulher|mãe)|(?:o )?meu (?:marido|vizinho|chefe|pai))|(?:hackear|invadir) (?:\S+ ){1,2}(?:telefone|celular|conta|e-?mail)|(?:fazer|fabricar|comprar) (?:metanfetamina|heroína)"),
    # Italian
    (r"come|ricetta (?:di|per)|voglio|insegnami a|dove posso",
     r"(?:costruire|costruisce|fabbricare|fare) una bomba(?! d['’]acqua)|bomba artigianale|molotov|gas sarin|uccidermi|suicidarmi|uccidere (?:qualcuno|mi[ao] (?:moglie|marito|madre|padre|vicino))|"
     r"hackerare (?:\S+ ){1,2}(?:telefono|account|computer)|(?:fare|produrre|comprare) (?:metanfetamina|eroina)"),
    # Russian
    (r"как|рецепт|инструкция по|хочу|где (?:мне )?купить|научи меня",
     r"(?:с?делать|изготовить|собрать) (?:\w+ )?бомбу|(?:самодельн\w+ )?взрывчатк\w+|коктейль молотова|зарин|рицин|(?:с?варить|приготовить|купить|с?делать) (?:метамфетамин|героин|мефедрон)|покончить (?:жизнь|с собой)|"
     r"убить (?:себя|человека|кого-нибудь|кого-то|жену|мужа|соседа|свою|своего)|взломать (?:чужо\w+ )?(?:\w+ )?(?:телефон|аккаунт|почту|компьютер|страницу)|отравить (?:соседа|жену|мужа|человека)"),
]  # fmt: skip
# As above, where words run together.
UNSAFE_ANYWHERE = [
    (r"(?:怎么|怎样|如何|教我|告诉我怎么|我想|我要)", r"(?:制造|制作|做|造)(?:一?个|一?枚)?(?:管状|自制)?(?:炸弹|炸药|燃烧瓶)|(?:制造|制作|合成|提炼)(?:冰毒|海洛因|沙林|蓖麻毒素)|"
     r"自杀|杀死(?:我的?|一个人|别人|自己|邻居|老婆|丈夫)|杀人|(?:黑进|入侵|破解)(?:别人|他人|女友|女朋友|我?老婆|男友).{0,6}(?:手机|账号|账户|邮箱|电脑|微信)|(?:购买|买到)(?:毒品|枪支)"),
    (r"爆弾|爆薬|火炎瓶|覚醒剂|覚醒剤|サリン|リシン", r"(?:の|を)?(?:作り方|製造方法|作る方法|作るには|作りたい|製造する方法)"),
    (r"(?:人|妻|夫|隣人|上司|親|自分|誰か)(?:を|の)", r"(?:殺す方法|殺し方|殺したい|殺すには)"),
    (r"自殺|他人の(?:スマホ|携帯|アカウント|メール|パソコン)", r"(?:の|する)(?:方法|やり方)|したい|を?(?:ハッキング|乗っ取)"),
    (r"폭탄|사제 ?폭탄|화염병|필로폰|마약", r"(?:을|를)? ?(?:만드는|만들|제조|구하는|사는)"),
    (r"사람|아내|남편|이웃|자살|다른 사람", r"(?:을|를)? ?(?:죽이는 방법|죽이고 싶|하는 방법|해킹)"),
    (r"كيف (?:أصنع|يمكنني|أقوم|نصنع|أستطيع|أقتل|أخترق|أنتحر)|طريقة (?:صنع|قتل|اختراق|الانتحار)|أريد أن|علمني",
     r"قنبل|متفجرات|زجاجة حارقة|غاز السارين|الميثامفيتامين|الهيروين|أقتل (?:نفسي|جاري|زوجتي|شخص)|قتل (?:شخص|زوجتي|جاري)|جاري|أنتحر|الانتحار|(?:أخترق|اختراق) (?:هاتف|حساب|بريد)|هاتف|زوجتي"),
    (r"बम|विस्फोटक|मेथ|हेरोइन", r"(?:कैसे (?:बना|खरीद)|बनाने का (?:तरीका|तरीक़ा)|बनाना सिखा)"),
    (r"आत्महत्या|खुदकुशी|(?:पत्नी|पति|पड़ोसी|किसी|आदमी|खुद) (?:को|की हत्या)|(?:फोन|फ़ोन|खाता|अकाउंट)", r"कैसे (?:करूँ|करूं|करें|मार|जान से|हैक|हत्या)|हैक कैसे|का (?:आसान )?तरीका"),
]  # fmt: skip
# Whole phrases: threats, calls to violence, and what is asked for without saying how.
PHRASES = [
    r"i(?:['’]ll| will|(?:['’]m| am) (?:going to|gonna)) (?:fucking )?(?:rape|kill|murder|strangle|stab|shoot) (?:you|her|him|them|your)",
    r"(?:all|those|these|the) (?:jews|muslims|christians|black people|blacks|gays|immigrants|refugees|women|whites|gypsies|arabs)(?: \w+)? "
    r"(?:should|must|need to|deserve to|have to) (?:all )?(?:be )?(?:killed|gassed|exterminated|die|shot|burned|hanged)",
    r"(?:write|create|make|build|code|develop|spread)(?: me)?(?: an?| some)?(?: \w+)? (?:malware|ransomware|keylogger|phishing (?:e-?mail|page|site)|computer virus)"
    r"(?! (?:detect|scan|analys|signature|filter|report|protect|remov|train))",
    r"(?:schreib|programmier|erstell)e?(?: mir)? (?:eine? )?(?:schadsoftware|ransomware|erpressungstrojaner|keylogger|computervirus|phishing-?mail)",
    r"ich (?:bring(?:e)? dich um|werde dich (?:töten|umbringen|vergewaltigen)|stech(?:e)? dich ab)",
    r"(?:alle|die) (?:juden|muslime|ausländer|schwarzen|flüchtlinge) (?:sollte|müsste|muss|gehören|sollen)\w*(?: \w+)? (?:vergast|getötet|umgebracht|erschossen|sterben)",
    r"je vais (?:te|vous) (?:tuer|violer|égorger)", r"mort aux (?:juifs|arabes|noirs|musulmans)",
    r"(?:te|os) voy a (?:matar|violar|degollar)", r"(?:eu )?vou te (?:matar|estuprar|degolar)",
    r"ti (?:ammazzo|uccido|stupro)", r"я тебя (?:убью|изнасилую|зарежу)", r"смерть (?:евреям|мусульманам|хачам)",
    r"(?:напиши|создай) (?:мне )?(?:вирус|вредоносн\w+|шифровальщик|кейлоггер)",
]  # fmt: skip
PHRASES_ANYWHERE = [
    r"我要(?:杀了你|杀死你|强奸你|弄死你)", r"(?:写|编写)(?:一个|一段)?(?:勒索软件|恶意软件|木马病毒)", r"お前を殺す|殺してやる|レイプしてやる",
    r"죽여 ?버리겠|죽여버릴", r"سأقتلك|سأغتصبك|الموت لليهود", r"(?:तुझे|तुम्हें) (?:मार डालूँगा|मार डालूंगा|जान से मार)",
]  # fmt: skip
# What is done against it; a phrase with one of these in it is none.
AGAINST = (
    r"prevent|avoid|stop|protect|detect|defen[ds]|surviv|treat|remov|recogni|verhinder|schütz|vermeid|erkenn|entschärf|prévenir|"
    r"éviter|empêcher|protég|prevenir|evitar|proteger|impedir|evitare|prevenire|предотврат|защит|избежать|防止|预防|避免|防ぐ|防止|"
    r"예방|منع|الوقاية|रोक|बचा"
)
