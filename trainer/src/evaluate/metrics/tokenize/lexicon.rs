//! Words that the tokenizer knows by name. The abbreviations are those that keep their full stop in PTBTokenizer 3.4.1.

/// Tokens that count as punctuation to coco-caption. Brackets do not: it lists them in upper case.
pub const PUNCTUATION: [&str; 13] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// Words that are two, and where they part.
pub const SPLIT: [(&str, &str); 8] = [
    ("can", "not"),
    ("gim", "me"),
    ("gon", "na"),
    ("got", "ta"),
    ("lem", "me"),
    ("wan", "na"),
    ("'t", "is"),
    ("'t", "was"),
];

/// Words that are one in spite of the sign in them.
pub const WHOLE: [&str; 20] = [
    "'cause",
    "'em",
    "'til",
    "'till",
    "c#",
    "c'est",
    "c'mon",
    "c++",
    "cap'n",
    "cont'd",
    "dunkin'",
    "e'er",
    "ev'ry",
    "li'l",
    "nat'l",
    "nor'easter",
    "ol'",
    "s'mores",
    "somethin'",
    "f#",
];

/// Abbreviations of more than one letter; a full stop after one of them is a part of it.
pub const ABBREVIATIONS: &str = "adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg \
    blvd brig bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est \
    etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar \
    md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte \
    ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt \
    supts sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo";

/// Abbreviations that are words of their own in lower case.
pub const CAPITAL_ABBREVIATIONS: [&str; 11] =
    ["ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"];

/// Abbreviations only before a number.
pub const NUMBERED: [&str; 6] = ["art", "fig", "figs", "no", "nos", "pp"];

/// Words that in upper case begin a sentence, so that the full stop before them ends one.
pub const SENTENCE_STARTS: &str = "a about according additionally after an as at but earlier he her here however if in \
    it last many more mr. ms. now once one other our she since so some such that the then there these they this we what \
    when while yet you";

/// Extensions of names of files.
pub const EXTENSIONS: &str = "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php \
    pl png ppt ps py sql tar txt wav x xml zip";
