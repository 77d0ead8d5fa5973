"""What hubbub's own notifications say, by locale: title and body of each, as Jinja2 sources.

Sentences are built so that they fit one person and several, and say nothing of anybody's gender.
"""

from typing import Final

WHO: Final = "{{ names | names(others) }}"
_IN: Final = "{% if conversation %} · {{ conversation }}{% endif %}"
_TEXT: Final = "{{ text | truncate(300) }}"


def _n(variable: str = "count", **forms: str) -> str:
    """A plural by a variable."""
    return "{{ %s | plural(%s) }}" % (variable, ", ".join(f'{name}="{form}"' for name, form in forms.items()))  # noqa: UP031


def _message(**files: str) -> str:
    """A message's text; without one, how many files it brings."""
    return "{% if text %}" + _TEXT + "{% else %}📎 " + _n("files", **files) + "{% endif %}"


def _comment(several: str) -> str:
    """What a single comment says; else who comments."""
    return "{% if text and count == 1 %}" + WHO + ": " + _TEXT + "{% else %}" + several + "{% endif %}"


# Of a digest: as many as are told, and of these the first ten.
_TOTAL: Final = "{% set total = count if count > titles | length else titles | length %}"
_MORE: Final = "{% if total > 10 %}\n+{{ (total - 10) | number }}{% endif %}"
_LINES: Final = (
    "{% for title in titles[:10] %}{% if not loop.first %}\n{% endif %}"
    "• {{ title | truncate(120) }}{% endfor %}"
)
DIGEST_BODY: Final = _TOTAL + _LINES + _MORE


def _total(**forms: str) -> str:
    return _TOTAL + _n("total", **forms)


def _login(device: str, place: str, time: str, advice: str) -> str:
    return (
        "{% if device %}" + device + ": {{ device }}\n{% endif %}"
        "{% if place %}" + place + ": {{ place }}\n{% endif %}"
        "{% if at %}" + time + ": {{ at | datetime('medium') }}\n{% endif %}" + advice
    )


OPEN: Final[dict[str, str]] = {
    "en": "Open",
    "de": "Öffnen",
    "fr": "Ouvrir",
    "es": "Abrir",
    "pt": "Abrir",
    "ru": "Открыть",
    "ar": "فتح",
    "ja": "開く",
}

BUILTIN_TEXTS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "chat": {
        "en": (WHO + _IN, _message(one="# file", other="# files")),
        "de": (WHO + _IN, _message(one="# Datei", other="# Dateien")),
        "fr": (WHO + _IN, _message(one="# fichier", other="# fichiers")),
        "es": (WHO + _IN, _message(one="# archivo", other="# archivos")),
        "pt": (WHO + _IN, _message(one="# arquivo", other="# arquivos")),
        "ru": (WHO + _IN, _message(one="# файл", few="# файла", many="# файлов", other="# файла")),
        "ar": (
            WHO + _IN,
            _message(one="ملف", two="ملفان", few="# ملفات", many="# ملفًا", other="# ملف"),
        ),
        "ja": (WHO + _IN, _message(other="ファイル#件")),
    },
    "mention": {
        "en": (WHO + " mentioned you" + _IN, _TEXT),
        "de": (WHO + " " + _n(one="hat", other="haben") + " dich erwähnt" + _IN, _TEXT),
        "fr": (WHO + " vous " + _n(one="a mentionné", other="ont mentionné") + _IN, _TEXT),
        "es": (WHO + " te " + _n(one="mencionó", other="mencionaron") + _IN, _TEXT),
        "pt": (WHO + " " + _n(one="mencionou", other="mencionaram") + " você" + _IN, _TEXT),
        "ru": ("Вас упомянули: " + WHO + _IN, _TEXT),
        "ar": ("أشار إليك " + WHO + _IN, _TEXT),
        "ja": (WHO + "があなたをメンションしました" + _IN, _TEXT),
    },
    "contact_request": {
        "en": ("Contact request", WHO + " would like to add you as a contact."),
        "de": (
            "Kontaktanfrage",
            WHO + " " + _n(one="möchte", other="möchten") + " dich als Kontakt hinzufügen.",
        ),
        "fr": (
            "Demande de contact",
            WHO + " " + _n(one="souhaite", other="souhaitent") + " vous ajouter à ses contacts.",
        ),
        "es": (
            "Solicitud de contacto",
            WHO + " " + _n(one="quiere", other="quieren") + " añadirte como contacto.",
        ),
        "pt": (
            "Pedido de contato",
            WHO + " " + _n(one="quer", other="querem") + " adicionar você como contato.",
        ),
        "ru": ("Запрос в контакты", "Вас хотят добавить в контакты: " + WHO),
        "ar": ("طلب إضافة", "يريد " + WHO + " إضافتك إلى جهات الاتصال."),
        "ja": ("連絡先の追加リクエスト", WHO + "があなたを連絡先に追加したいと思っています。"),
    },
    "contact_accepted": {
        "en": ("New contact", WHO + " accepted your contact request."),
        "de": (
            "Neuer Kontakt",
            WHO + " " + _n(one="hat", other="haben") + " deine Kontaktanfrage angenommen.",
        ),
        "fr": (
            "Nouveau contact",
            WHO + " " + _n(one="a", other="ont") + " accepté votre demande de contact.",
        ),
        "es": (
            "Nuevo contacto",
            WHO + " " + _n(one="aceptó", other="aceptaron") + " tu solicitud de contacto.",
        ),
        "pt": ("Novo contato", WHO + " " + _n(one="aceitou", other="aceitaram") + " seu pedido de contato."),
        "ru": ("Новый контакт", "Ваш запрос принят: " + WHO),
        "ar": ("جهة اتصال جديدة", "قبل " + WHO + " طلبك."),
        "ja": ("新しい連絡先", WHO + "があなたのリクエストを承認しました。"),
    },
    "like": {
        "en": (_n(one="# new like", other="# new likes"), WHO + " liked your post."),
        "de": (
            _n(one="# neues „Gefällt mir“", other="# neue „Gefällt mir“"),
            WHO + " " + _n(one="mag", other="mögen") + " deinen Beitrag.",
        ),
        "fr": (
            _n(one="# nouveau « J’aime »", other="# nouveaux « J’aime »"),
            WHO + " " + _n(one="aime", other="aiment") + " votre publication.",
        ),
        "es": (
            _n(one="# nuevo «Me gusta»", other="# nuevos «Me gusta»"),
            _n(one="Nuevo «Me gusta» en tu publicación: ", other="Nuevos «Me gusta» en tu publicación: ")
            + WHO,
        ),
        "pt": (
            _n(one="# nova curtida", other="# novas curtidas"),
            WHO + " " + _n(one="curtiu", other="curtiram") + " sua publicação.",
        ),
        "ru": (
            _n(
                one="# отметка «Нравится»",
                few="# отметки «Нравится»",
                many="# отметок «Нравится»",
                other="# отметки «Нравится»",
            ),
            "Вашу запись оценили: " + WHO,
        ),
        "ar": (
            _n(
                zero="لا إعجابات جديدة",
                one="إعجاب جديد",
                two="إعجابان جديدان",
                few="# إعجابات جديدة",
                many="# إعجابًا جديدًا",
                other="# إعجاب جديد",
            ),
            "أُعجب " + WHO + " بمنشورك.",
        ),
        "ja": (_n(other="新しい「いいね！」#件"), WHO + "があなたの投稿に「いいね！」しました。"),
    },
    "comment": {
        "en": (_n(one="# new comment", other="# new comments"), _comment(WHO + " commented on your post.")),
        "de": (
            _n(one="# neuer Kommentar", other="# neue Kommentare"),
            _comment(WHO + " " + _n(one="hat", other="haben") + " deinen Beitrag kommentiert."),
        ),
        "fr": (
            _n(one="# nouveau commentaire", other="# nouveaux commentaires"),
            _comment(WHO + " " + _n(one="a", other="ont") + " commenté votre publication."),
        ),
        "es": (
            _n(one="# comentario nuevo", other="# comentarios nuevos"),
            _comment(WHO + " " + _n(one="comentó", other="comentaron") + " tu publicación."),
        ),
        "pt": (
            _n(one="# novo comentário", other="# novos comentários"),
            _comment(WHO + " " + _n(one="comentou", other="comentaram") + " sua publicação."),
        ),
        "ru": (
            _n(
                one="# новый комментарий",
                few="# новых комментария",
                many="# новых комментариев",
                other="# нового комментария",
            ),
            _comment("Вашу запись прокомментировали: " + WHO),
        ),
        "ar": (
            _n(
                zero="لا تعليقات جديدة",
                one="تعليق جديد",
                two="تعليقان جديدان",
                few="# تعليقات جديدة",
                many="# تعليقًا جديدًا",
                other="# تعليق جديد",
            ),
            _comment("علّق " + WHO + " على منشورك."),
        ),
        "ja": (_n(other="新しいコメント#件"), _comment(WHO + "があなたの投稿にコメントしました。")),
    },
    "follow": {
        "en": (
            _n(one="# new follower", other="# new followers"),
            WHO + " now " + _n(one="follows", other="follow") + " you.",
        ),
        "de": (
            _n(one="# neues Abo", other="# neue Abos"),
            WHO + " " + _n(one="folgt", other="folgen") + " dir jetzt.",
        ),
        "fr": (
            _n(one="# nouvel abonnement", other="# nouveaux abonnements"),
            WHO + " vous " + _n(one="suit", other="suivent") + " désormais.",
        ),
        "es": (
            _n(one="# seguidor nuevo", other="# seguidores nuevos"),
            WHO + " ahora te " + _n(one="sigue", other="siguen") + ".",
        ),
        "pt": (
            _n(one="# novo seguidor", other="# novos seguidores"),
            WHO + " agora " + _n(one="segue", other="seguem") + " você.",
        ),
        "ru": (
            _n(
                one="# новый подписчик",
                few="# новых подписчика",
                many="# новых подписчиков",
                other="# нового подписчика",
            ),
            "На вас подписались: " + WHO,
        ),
        "ar": (
            _n(
                zero="لا متابعين جدد",
                one="متابع جديد",
                two="متابعان جديدان",
                few="# متابعين جدد",
                many="# متابعًا جديدًا",
                other="# متابع جديد",
            ),
            "بدأ " + WHO + " بمتابعتك.",
        ),
        "ja": (_n(other="新しいフォロワー#人"), WHO + "があなたをフォローしました。"),
    },
    "follow_request": {
        "en": ("Follow request", WHO + " would like to follow you."),
        "de": ("Anfrage", WHO + " " + _n(one="möchte", other="möchten") + " dir folgen."),
        "fr": ("Demande d’abonnement", WHO + " " + _n(one="souhaite", other="souhaitent") + " vous suivre."),
        "es": ("Solicitud de seguimiento", WHO + " " + _n(one="quiere", other="quieren") + " seguirte."),
        "pt": ("Pedido para seguir", WHO + " " + _n(one="quer", other="querem") + " seguir você."),
        "ru": ("Запрос на подписку", "На вас хотят подписаться: " + WHO),
        "ar": ("طلب متابعة", "يريد " + WHO + " متابعتك."),
        "ja": ("フォローリクエスト", WHO + "があなたをフォローしたいと思っています。"),
    },
    "follow_accepted": {
        "en": ("Request accepted", WHO + " accepted your request to follow."),
        "de": (
            "Anfrage angenommen",
            WHO + " " + _n(one="hat", other="haben") + " deine Anfrage zu folgen angenommen.",
        ),
        "fr": (
            "Demande acceptée",
            WHO + " " + _n(one="a", other="ont") + " accepté votre demande d’abonnement.",
        ),
        "es": (
            "Solicitud aceptada",
            WHO + " " + _n(one="aceptó", other="aceptaron") + " tu solicitud de seguimiento.",
        ),
        "pt": (
            "Pedido aceito",
            WHO + " " + _n(one="aceitou", other="aceitaram") + " seu pedido para seguir.",
        ),
        "ru": ("Запрос принят", "Ваш запрос на подписку принят: " + WHO),
        "ar": ("قُبل الطلب", "قبل " + WHO + " طلب المتابعة."),
        "ja": ("リクエストの承認", WHO + "がフォローリクエストを承認しました。"),
    },
    "digest": {
        "en": (_total(one="# notification", other="# notifications"), DIGEST_BODY),
        "de": (_total(one="# Benachrichtigung", other="# Benachrichtigungen"), DIGEST_BODY),
        "fr": (_total(one="# notification", other="# notifications"), DIGEST_BODY),
        "es": (_total(one="# notificación", other="# notificaciones"), DIGEST_BODY),
        "pt": (_total(one="# notificação", other="# notificações"), DIGEST_BODY),
        "ru": (
            _total(one="# уведомление", few="# уведомления", many="# уведомлений", other="# уведомления"),
            DIGEST_BODY,
        ),
        "ar": (
            _total(
                zero="لا إشعارات جديدة",
                one="إشعار جديد",
                two="إشعاران جديدان",
                few="# إشعارات جديدة",
                many="# إشعارًا جديدًا",
                other="# إشعار جديد",
            ),
            DIGEST_BODY,
        ),
        "ja": (_total(other="通知#件"), DIGEST_BODY),
    },
    "security_login": {
        "en": ("New sign-in", _login("Device", "Place", "Time", "Not you? Change your password now.")),
        "de": (
            "Neue Anmeldung",
            _login("Gerät", "Ort", "Zeit", "Warst du das nicht? Ändere sofort dein Passwort."),
        ),
        "fr": (
            "Nouvelle connexion",
            _login(
                "Appareil", "Lieu", "Heure", "Ce n’était pas vous ? Changez tout de suite de mot de passe."
            ),
        ),
        "es": (
            "Nuevo inicio de sesión",
            _login("Dispositivo", "Lugar", "Hora", "¿No fuiste tú? Cambia ya tu contraseña."),
        ),
        "pt": (
            "Novo acesso",
            _login("Dispositivo", "Local", "Hora", "Não foi você? Troque sua senha agora."),
        ),
        "ru": ("Новый вход", _login("Устройство", "Место", "Время", "Это не вы? Сразу смените пароль.")),
        "ar": ("تسجيل دخول جديد", _login("الجهاز", "المكان", "الوقت", "لست أنت؟ غيّر كلمة المرور الآن.")),
        "ja": (
            "新しいログイン",
            _login("端末", "場所", "日時", "お心当たりがない場合は、すぐにパスワードを変更してください。"),
        ),
    },
}
