"""A stand-in for StarCraft II's process: speaks the game's protocol (s2api messages over a websocket) and
plays a small battle. Started as the game is: ``-listen HOST -port PORT -dataDir ... -tempDir ...``.

Units have positions, health, shields and cooldowns, obey move, attack, heal and stop, and die; the other
side attacks whoever is nearest. As on SMAC's maps, all units come back once none is left. The file that
``$STAND_IN_FAULT`` names may hold "die", "hang" or "drop": at the next step the process ends, sleeps, or
closes its connection, once.
"""

import argparse
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from s2clientprotocol import sc2api_pb2 as api
from websockets.sync.server import serve

SIZE = 32
# Of each type: health, shield, range, damage, seconds between attacks, speed.
KINDS = {
    "marine": (45, 0, 5.0, 6, 0.61, 3.15),
    "marauder": (125, 0, 6.0, 10, 1.07, 3.15),
    "medivac": (150, 0, 4.0, 0, 1.0, 3.5),
    "stalker": (80, 80, 6.0, 13, 1.34, 4.13),
    "zealot": (100, 50, 0.5, 16, 0.86, 3.15),
    "spine": (300, 0, 7.0, 25, 1.32, 0.0),
}
BLIZZARD = {"marine": 48, "marauder": 51, "medivac": 54, "stalker": 74, "zealot": 73, "spine": 98}
# SMAC's maps have unit types of their own for the allies, counted from a first one in this order.
ALLIES = {"stalker": 1970, "zealot": 1971, "marauder": 1970, "marine": 1971, "medivac": 1972}
# SMACv2's map has nine of them, the last of all types; its units are made by the env, in each episode.
GENERATED = {2003: "marauder", 2004: "marine", 2005: "medivac", 2006: "stalker", 2007: "zealot"}
NUM_TYPES = 2009
MAPS = {
    "3s5z": (["stalker"] * 3 + ["zealot"] * 5, ["stalker"] * 3 + ["zealot"] * 5),
    "2s_vs_1sc": (["stalker"] * 2, ["spine"]),
    "3s_vs_5z": (["stalker"] * 3, ["zealot"] * 5),
    "5m_vs_6m": (["marine"] * 5, ["marine"] * 6),
    "3s5z_vs_3s6z": (["stalker"] * 3 + ["zealot"] * 5, ["stalker"] * 3 + ["zealot"] * 6),
    "MMM2": (["marauder"] * 2 + ["marine"] * 7 + ["medivac"], ["marauder"] * 3 + ["marine"] * 8 + ["medivac"]),
    "32x32_flat": ([], []),
}
MOVE, ATTACK, STOP, HEAL = 16, 23, 4, 386
SECONDS = 1 / 22.4  # of a game loop


@dataclass
class Unit:
    tag: int
    kind: str
    type: int
    owner: int
    x: float
    y: float
    health: float = 0.0
    shield: float = 0.0
    cooldown: float = 0.0
    order: tuple = field(default=(STOP, None))

    def __post_init__(self):
        self.health, self.shield, *_ = map(float, KINDS[self.kind])

    def distance(self, other):
        return math.hypot(self.x - other.x, self.y - other.y)

    def walk(self, x, y):
        far, reach = math.hypot(x - self.x, y - self.y), KINDS[self.kind][5] * SECONDS
        if far > 1e-6:
            share = min(1.0, reach / far)
            self.x = min(max(self.x + (x - self.x) * share, 0.5), SIZE - 0.5)
            self.y = min(max(self.y + (y - self.y) * share, 0.5), SIZE - 0.5)


class Battle:
    def __init__(self, name):
        self.name, self.loop, self.units, self.next_tag = name, 0, {}, 1
        self.spawn()

    def spawn(self):
        for owner, kinds in enumerate(MAPS[self.name], 1):
            for k, kind in enumerate(kinds):
                self.add(
                    kind, (ALLIES if owner == 1 else BLIZZARD)[kind], owner, 10.0 if owner == 1 else 20.0, 11.0 + k
                )

    def add(self, kind, unit_type, owner, x, y):
        self.units[self.next_tag] = Unit(self.next_tag, kind, unit_type, owner, x, y)
        self.next_tag += 1

    def create(self, command):
        kinds = GENERATED if command.owner == 1 else {number: kind for kind, number in BLIZZARD.items()}
        self.add(kinds[command.unit_type], command.unit_type, command.owner, command.pos.x, command.pos.y)

    def step(self):
        self.loop += 1
        if not self.units:
            self.spawn()
        for unit in list(self.units.values()):
            if unit.health > 0:
                self.act(unit)
        self.units = {tag: unit for tag, unit in self.units.items() if unit.health > 0}

    def act(self, unit):
        unit.cooldown = max(0.0, unit.cooldown - SECONDS)
        ability, target = unit.order
        if unit.owner == 2:
            foes = [other for other in self.units.values() if other.owner == 1 and other.health > 0]
            if not foes:
                return
            ability, target = ATTACK, min(foes, key=unit.distance).tag
        if ability == MOVE:
            unit.walk(*target)
        elif ability in (ATTACK, HEAL) and target in self.units:
            other = self.units[target]
            _, _, reach, damage, wait, _ = KINDS[unit.kind]
            if unit.distance(other) > reach + 0.75:
                unit.walk(other.x, other.y)
            elif unit.cooldown == 0.0:
                unit.cooldown = wait
                if ability == HEAL:
                    other.health = min(KINDS[other.kind][0], other.health + 10)
                else:
                    through = max(0.0, damage - other.shield)
                    other.shield, other.health = max(0.0, other.shield - damage), max(0.0, other.health - through)

    def observe(self, raw):
        for unit in self.units.values():
            health, shield, *_ = KINDS[unit.kind]
            message = raw.units.add(
                tag=unit.tag, unit_type=unit.type, owner=unit.owner, alliance=1 if unit.owner == 1 else 4
            )
            message.pos.x, message.pos.y = unit.x, unit.y
            message.health, message.health_max, message.shield, message.shield_max = (
                unit.health,
                health,
                unit.shield,
                shield,
            )
            message.weapon_cooldown, message.energy, message.radius = unit.cooldown * 22.4, 50.0, 0.5


def misbehave(socket):
    path = Path(os.environ.get("STAND_IN_FAULT", "/nonexistent"))
    fault = path.read_text().strip() if path.is_file() else ""
    if not fault:
        return
    path.unlink()
    if fault == "die":
        os._exit(1)
    if fault == "hang":
        time.sleep(3600)
    socket.close()


def main():
    parser = argparse.ArgumentParser()
    for name in ("-listen", "-port", "-dataDir", "-tempDir", "-dataVersion"):
        parser.add_argument(name)
    options = parser.parse_args()
    battle, status = None, api.launched

    def session(socket):
        nonlocal battle, status
        while True:
            # pysc2 sends its messages as text, which they are not.
            request, response = api.Request.FromString(socket.recv(decode=False)), api.Response()
            what = request.WhichOneof("request")
            if what == "quit":
                os._exit(0)
            if what == "ping":
                response.ping.game_version, response.ping.base_build, response.ping.data_build = "4.10.0", 75689, 75689
            elif what == "create_game":
                battle = Battle(Path(request.create_game.local_map.map_path).stem)
                response.create_game.SetInParent()
                status = api.init_game
            elif what == "join_game":
                response.join_game.player_id = 1
                status = api.in_game
            elif what == "game_info":
                info = response.game_info
                info.map_name, raw = battle.name, info.start_raw
                raw.map_size.x = raw.map_size.y = raw.playable_area.p1.x = raw.playable_area.p1.y = SIZE
                raw.pathing_grid.bits_per_pixel, raw.pathing_grid.data = 1, b"\xff" * (SIZE * SIZE // 8)
                raw.terrain_height.bits_per_pixel, raw.terrain_height.data = 8, bytes([127]) * (SIZE * SIZE)
            elif what == "observation":
                response.observation.observation.game_loop = battle.loop
                battle.observe(response.observation.observation.raw_data)
            elif what == "action":
                for action in request.action.actions:
                    command = action.action_raw.unit_command
                    place = command.target_world_space_pos
                    target = command.target_unit_tag if command.HasField("target_unit_tag") else (place.x, place.y)
                    for tag in command.unit_tags:
                        if tag in battle.units:
                            battle.units[tag].order = (command.ability_id, target)
                    response.action.result.append(1)
            elif what == "step":
                misbehave(socket)
                for _ in range(request.step.count):
                    battle.step()
                response.step.simulation_loop = battle.loop
            elif what == "debug":
                for command in request.debug.debug:
                    for tag in command.kill_unit.tag:
                        battle.units.pop(tag, None)
                    if command.HasField("create_unit"):
                        battle.create(command.create_unit)
                response.debug.SetInParent()
            elif what == "data":
                for number in range(NUM_TYPES):
                    response.data.units.add(unit_id=number)
            elif what == "save_replay":
                response.save_replay.data = f"{battle.name} {battle.loop}".encode()
            else:
                response.error.append(f"the stand-in does not know {what}")
            response.id, response.status = request.id, status
            socket.send(response.SerializeToString())

    with serve(session, options.listen, int(options.port), max_size=None, compression=None) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
