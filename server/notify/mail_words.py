"""The few words that hubbub itself puts into mails."""

from typing import Final

UNSUBSCRIBE: Final[dict[str, str]] = {
    "en": "Unsubscribe",
    "de": "Abbestellen",
    "fr": "Se désabonner",
    "es": "Darse de baja",
    "pt": "Cancelar inscrição",
    "it": "Annulla l’iscrizione",
    "nl": "Uitschrijven",
    "ru": "Отписаться",
    "ar": "إلغاء الاشتراك",
    "ja": "配信停止",
}
