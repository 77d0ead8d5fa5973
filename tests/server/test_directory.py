"""The directory over the real store: names, apps and provisioned users."""

from pathlib import Path

import pytest

from protocol.commands import UpdateProfile
from protocol.errors import Refused
from server import auth
from tests.server.http_world import PASSWORD
from tests.server.office import code_of, open_office


async def test_a_provisioned_user_gets_a_free_name_when_the_wish_cannot_be_had(tmp_path: Path) -> None:
    """Backends whose user names follow other rules."""
    async with open_office(tmp_path) as office:
        names = []
        for external_id, wish in [
            ("1", "ann"),
            ("2", "Ann"),
            ("3", "a/b?"),
            ("4", "admin"),
            ("mail@x.y", ""),
        ]:
            user, was_created, _ = await office.directory.provision("default", external_id, username=wish)
            assert was_created
            names.append(user.username)
        assert names[0] == "ann"
        assert names[1].startswith("Ann-")
        assert len({auth.fold(name) for name in names}) == 5
        for name in names:
            auth.checked_username(name)


async def test_apps_have_names_of_their_own(tmp_path: Path) -> None:
    """Operators of several products."""
    async with open_office(tmp_path) as office:
        assert (await office.directory.ensure_default_app()).app_id == "default"
        shop = await office.directory.create_app("shop")
        with pytest.raises(Refused) as error:
            await office.directory.create_app("shop")
        assert code_of(error) == "already_exists"
        assert await office.directory.find_app("shop") == shop
        assert [app.name for app in await office.directory.list_apps()] == ["default", "shop"]
        for missing in ("nowhere", "u_1"):
            with pytest.raises(Refused) as error:
                await office.directory.find_app(missing)
            assert code_of(error) == "not_found"
        with pytest.raises(Refused) as error:
            await office.accounts.revoke_app_key(
                "default", (await office.accounts.create_app_key(shop.app_id))[0].app_key
            )
        assert code_of(error) == "not_found"


async def test_a_profile_change_is_tidied_before_it_reaches_the_actor(tmp_path: Path) -> None:
    """The user's actor, which stores what it is given."""
    async with open_office(tmp_path) as office:
        ann = (await office.accounts.sign_up("", "ann", PASSWORD)).identity
        change = UpdateProfile(id=4, name=" Ann  B ", language="EN-gb", avatar="")
        assert await office.directory.checked_profile(ann, change) == UpdateProfile(
            id=4, name="Ann B", language="en-GB", avatar=""
        )
