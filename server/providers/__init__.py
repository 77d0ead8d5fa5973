"""Clients of the delivery providers (APNs, FCM, Web Push, Twilio, SMTP, …), one file each.

Each fits `actors.notify.delivery.Provider`: it takes one Outgoing, tries once, and returns an Outcome. It
keeps no queue and retries nothing by itself; what an answer means is a pure function beside it.
"""
