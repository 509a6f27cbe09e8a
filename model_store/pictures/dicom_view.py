"""What a DICOM header says of view and body part: codes first, then orientation, then words.

A warning is given where the header names another view or part than a frontal chest. A word that
is not known makes no claim: hospitals write many, and a warning on every X-ray is read by nobody.
Words are compared without accents and case, whole, in the languages of large populations.

Sources: DICOM PS3.16, CID 4010 (DX view), CID 4031 (anatomic regions), annex L (body parts).
"""

from __future__ import annotations

import itertools
import re
import unicodedata

from pydicom.dataset import Dataset

from model_store.pictures.orientation import UPRIGHT, Orientation, orientation_of_patient
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode

_FRONTAL_CODES = frozenset(
    # Frontal, AP and PA, as SNOMED CT and as the older SNOMED RT.
    "399033003 399348003 272479007 R-10202 R-10206 R-40888 R-10214".split()  # noqa: SIM905
)
_OTHER_VIEW_CODES = frozenset(
    # Laterals, obliques, sagittal, tangential, and views of skulls, feet and breasts.
    "399067008 399173006 399198007 399352003 399260004 399368009 399099002 260427002 399135007 "  # noqa: SIM905
    "399184004 399006002 399356000 399236003 399038007 399182000 399312000 399059000 399160007 "
    "399132005 399004004 399225005 399288005 30730003 399325008 399110001 399255003 399360002 "
    "399242004 399351005 399316002 399272005 399335002 399071006 260499007 260426006 399196006 "
    "399162004 R-102CD R-10236 R-10232 R-10228 R-10224 R-10226 R-10230 R-40783 R-10220 R-10238 "
    "R-10212 R-40985 R-10234 R-10210 R-102C1 R-10208 R-10216 R-10204 R-10252 R-10246 R-10250 "
    "R-10248 G-A145 R-10254 R-102C2 R-10256 R-10257 R-102C6 R-102C7 R-102C8 R-102C5 R-102C4 "
    "R-102C3 R-40810 R-40782 R-10244 R-10242".split()
)
_OTHER_PART_CODES = frozenset(
    # Abdomen, pelvis, limbs, head, neck, spine, breast and what lies in them.
    "818981001 818982008 85856004 70258002 53505006 28273000 34707002 89837001 72001000 371195002 "  # noqa: SIM905
    "76752008 80144004 122494005 64688005 71854001 38848004 16953009 66019005 81745001 371398005 "
    "91397008 71341001 87342007 7569003 56459004 14975008 28231008 85562004 69536005 774007 "
    "29836001 24136001 85050009 34516001 22356005 361078006 661005 21306003 72696002 14742008 "
    "4596009 303270005 30021000 61685007 122496007 1217253001 91609006 59066005 70925003 74386004 "
    "45048000 55024004 363654007 15776009 2095001 45289007 64234005 816092008 1231522001 706342009 "
    "41216001 34402009 1217254007 39723000 54735007 42575006 58742003 16982005 89546000 30315005 "
    "421060004 69695003 27949001 53620006 68367000 122495006 1217256009 76505004 29707007 40983000 "
    "53120007 431491007 87953007 13648007 35039007 110639002 110517009 74670003 13881006 10200004 "
    "64033007 12738006 1101003 89545001 51299004 79601000 T-D4000 T-D6000 T-15420 T-15750 T-12700 "
    "T-D0821 T-04000 T-12770 T-11501 T-11BF0 T-15430 T-D0300 T-AA000 T-11196 T-12710 T-12750 "
    "T-D8800 T-D9700 T-D8500 T-D8700 T-D1100 T-D1000 T-D2500 T-15710 T-12410 T-12340 T-D1213 "
    "T-D9200 T-D9400 T-D9000 T-11503 T-11180 T-11133 T-11170 T-11149 T-D1600 T-D14AE T-22000 "
    "T-12730 T-R0105 T-15680 T-11AD0 T-D1460 T-12980 T-D2220 T-11100 T-D04FF T-15770 T-15290 "
    "T-D9100 T-11502 T-D8810 T-D9800 T-D8200 T-D8000 T-11011 T-15460 T-11166 T-12310 T-12280 "
    "T-71000 T-62000 T-A0100 T-D1400 T-D1200".split()
)
_FRONTAL_WORDS = frozenset(
    "AP PA ANTEROPOSTERIOR POSTEROANTERIOR FRONTAL FRONTALE DORSOVENTRAL VENTRODORSAL".split()  # noqa: SIM905
)
_OTHER_VIEW_WORDS = frozenset(
    # Lateral and oblique: English, German, French, Spanish, Portuguese, Italian, Dutch, Polish,
    # Czech, Hungarian, Swedish, Danish, Finnish, Turkish, Romanian, Greek, Russian, Ukrainian,
    # Arabic, Chinese, Japanese, Korean, Vietnamese, Indonesian (romanised where need be).
    "LL RL LAT LLAT RLAT LATERAL LATERALE LATERALIS LATERAALI LATERAAL LATERALNA LATERALNE "  # noqa: SIM905
    "LATEROLATERAL LATEROLATERALE LATLEFT LATRIGHT SEITLICH SEITE PROFIL PROFILE PERFIL LATERALA "
    "SIDE SIDO SIDEBILLEDE SIVU SIVUKUVA YAN YANLATERAL BOCZNE BOCZNA BOCNI BOCNY BOKOVA BOKOVAYA "
    "BOCHNA OLDALIRANYU OLDALSO PLAGIA JANIBI JANBI CEWEI CEMIAN SOKUMEN SOKUMENZO CHEUKMYEON "
    "NGHIENG SAMPING OBL OBLIQUE OBLIQUA OBLIQUO OBLICUA OBLICUO OBLIKVA SCHRAEG SCHRAG SKOSNE "
    "SKOSNA SIKMA SIKMY KOSAYA FERDE SKRA SKEV SHAI SHAWEI XIEWEI SASA OBLIK LAO RAO LPO RPO RLO "
    "LLO TANGENTIAL TANGENTIALE SAGITTAL SAGITTALE".split()
)
_OTHER_VIEW_SCRIPTS = ("側面", "侧位", "側位", "斜位", "측면", "боков", "косая", "جانبي")
_CHEST_WORDS = frozenset(
    "CHEST THORAX TORAX TORACE THORACE TORAKS THORACIC LUNG LUNGS LUNGE LUNGEN LUNGA POUMON "  # noqa: SIM905
    "POUMONS PULMON PULMONES PULMAO PULMOES POLMONE POLMONI LONG LONGEN PLUCA PLICE TUDO MELLKAS "
    "BRUST BRUSTKORB POITRINE PECHO PEITO TORSO HRUDNIK RINTAKEHA KEUHKOT GOGUS AKCIGER GRUDNAYA "
    "XIONGBU KYOBU HYUNGBU NGUC DADA RIBS RIB RIPPEN COTES COSTILLAS STERNUM HEART CXR BABYGRAM "
    "WHOLEBODY BODY".split()
)
_OTHER_PARTS = frozenset(
    # Defined terms of annex L, then the same parts in other languages.
    "ABDOMEN ABDOMENPELVIS ANKLE ARM BLADDER BRAIN BREAST BUTTOCK CALCANEUS CALF CLAVICLE COCCYX "  # noqa: SIM905
    "CSPINE CERVICAL ELBOW EXTREMITY EYE FACE FEMUR FIBULA FINGER FOOT FOREARM GALLBLADDER HAND "
    "HEAD HEADNECK HIP HUMERUS IAC JAW JAWREGION KIDNEY KNEE LEG LIVER LSPINE LUMBAR LSSPINE "
    "MANDIBLE MAXILLA NECK NOSE ORBIT PANCREAS PATELLA PELVIS PROSTATE RADIUS RADIUSULNA SACRUM "
    "SCAPULA SHOULDER SINUS SINUSES SKULL SPINE SSPINE STOMACH TESTIS THIGH THUMB TIBIA TLSPINE "
    "TOE TOES TSPINE TMJ ULNA UTERUS WRIST ZYGOMA FEET HANDS KNEES FINGERS TEETH DENTAL COLON "
    "BAUCH BECKEN SCHADEL SCHAEDEL HALS KOPF HANDGELENK FINGERN FUSS KNIE KNIEGELENK HUFTE HUEFTE "
    "SCHULTER ELLBOGEN ELLENBOGEN WIRBELSAULE WIRBELSAEULE HWS BWS LWS OBERSCHENKEL UNTERSCHENKEL "
    "UNTERARM OBERARM SPRUNGGELENK KIEFER "
    "VENTRE BASSIN CRANE TETE MAIN DOIGT PIED GENOU HANCHE EPAULE COUDE POIGNET CHEVILLE RACHIS "
    "COLONNE JAMBE CUISSE COU "
    "VIENTRE CRANEO CABEZA CUELLO MANO DEDO PIE RODILLA CADERA HOMBRO CODO MUNECA TOBILLO COLUMNA "
    "PIERNA MUSLO BRAZO ANTEBRAZO "
    "CRANIO CABECA PESCOCO MAO JOELHO QUADRIL ANCA OMBRO COTOVELO PUNHO PULSO TORNOZELO COLUNA "
    "PERNA COXA BRACO ANTEBRACO BACIA "
    "ADDOME BACINO TESTA COLLO DITO PIEDE GINOCCHIO SPALLA GOMITO POLSO CAVIGLIA COLONNA GAMBA "
    "COSCIA BUIK BEKKEN SCHEDEL HOOFD NEK VOET HEUP SCHOUDER ELLEBOOG POLS ENKEL WERVELKOLOM "
    "BRZUCH MIEDNICA CZASZKA GLOWA SZYJA REKA DLON PALEC STOPA KOLANO BIODRO BARK LOKIEC "
    "NADGARSTEK KREGOSLUP NOGA BRICHO PANEV LEBKA HLAVA RUKA PRST NOHA KOLENO KYCEL "
    "RAMENO LOKET PATER "
    "MEDENCE KOPONYA KEZ UJJ LABFEJ TERD CSIPO VALL KONYOK CSUKLO GERINC "
    "BUK BACKEN SKALLE HUVUD FOT KNA HOFT AXEL AXLA ARMBAGE HANDLED RYGG HANDLEDD VATSA LANTIO "
    "KALLO KASI JALKA POLVI LONKKA OLKAPAA SELKARANKA KARIN KAFATASI AYAK DIZ KALCA "
    "OMUZ DIRSEK BOYUN "
    "ZHIVOT TAZ CHEREP GOLOVA KIST STOPY PLECHO LOKOT POZVONOCHNIK "
    "FUBU GUPEN TOULU TOUBU JINGBU SHOUBU XIGUAN KUANGUAN JIANGUAN JIZHUI "
    "FUKUBU KOTSUBAN ZUGAI TOUGAIKOTSU KEIBU TEBU HIZA ASHI KATA SEKITSUI YOTSUI KEITSUI "
    "BOKBU GOLBAN DUGAE MUREUP EOKKAE CHEOKCHU "
    "PERUT PANGGUL TENGKORAK KEPALA LEHER TANGAN LUTUT KAKI BAHU TULANGBELAKANG".split()
)
_WORDS = re.compile(r"[^\W\d_]+")


def view_warnings(header: Dataset) -> list[PictureWarning]:
    """Return what the header says against a frontal X-ray of a chest.

    Args:
        header: the DICOM header.
    """
    found = []
    if _is_other_view(header):
        found.append(
            PictureWarning(
                PictureWarningCode.NOT_FRONTAL_VIEW,
                "The DICOM header names a view that is not frontal; the mask may be meaningless.",
            )
        )
    if _is_other_part(header):
        found.append(
            PictureWarning(
                PictureWarningCode.NOT_A_CHEST,
                "The DICOM header names a body part other than the chest.",
            )
        )
    return found


def stored_orientation(header: Dataset) -> Orientation:
    """Return the way from the stored pixels to a frontal X-ray as it is looked at.

    Args:
        header: the DICOM header; PatientOrientation alone counts. FieldOfViewRotation and
            FieldOfViewHorizontalFlip tell what was done to the pixels before they were stored.
    """
    directions = _patient_directions(header)
    if directions is None:
        return UPRIGHT
    return orientation_of_patient(*directions) or UPRIGHT


def _patient_directions(header: Dataset) -> tuple[str, str] | None:
    """Return the main direction of rows and of columns: the first letter of each."""
    value = header.get("PatientOrientation")
    parts = str(value).split("\\") if isinstance(value, str) else list(value or ())
    if len(parts) != 2:
        return None
    rows, columns = (str(part).strip().upper()[:1] for part in parts)
    return (rows, columns) if rows and columns else None


def _is_other_view(header: Dataset) -> bool:
    codes = _code_values(header, "ViewCodeSequence")
    if codes & _FRONTAL_CODES:
        return False
    if codes & _OTHER_VIEW_CODES:
        return True
    directions = _patient_directions(header)
    if directions is not None and set(directions) & {"A", "P"}:
        return True
    text = " ".join(str(header.get(name, "") or "") for name in ("ViewPosition", "ViewName"))
    words = _words(text)
    if words & _FRONTAL_WORDS:
        return False
    return bool(words & _OTHER_VIEW_WORDS) or any(
        one in text.lower() for one in _OTHER_VIEW_SCRIPTS
    )


def _is_other_part(header: Dataset) -> bool:
    codes = _code_values(header, "AnatomicRegionSequence")
    if codes:
        return bool(codes & _OTHER_PART_CODES)
    words = _words(str(header.get("BodyPartExamined", "") or ""))
    return bool(words & _OTHER_PARTS) and not words & _CHEST_WORDS


def _code_values(header: Dataset, keyword: str) -> set[str]:
    sequence = header.get(keyword)
    return {str(item.get("CodeValue", "") or "").strip() for item in sequence or ()} - {""}


def _words(text: str) -> set[str]:
    """Return the words of a text in capitals without accents, and two neighbours as one."""
    decomposed = unicodedata.normalize("NFKD", text.replace("Ł", "L").replace("ł", "l"))
    folded = "".join(one for one in decomposed if not unicodedata.combining(one)).upper()
    words = _WORDS.findall(folded)
    return {*words, *(one + two for one, two in itertools.pairwise(words))}
