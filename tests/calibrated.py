"""Calibrated files for released.py and formats.py, several from one run of the calibration items. To be imported before
numpy, as export.py says of its threads."""
import os
import shutil
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import export


class Kept(export.Calibration):
    """A calibration whose Hessians stay in a folder: they are those of the file as it is, for Q8 and Q4."""
    place = None

    def gather(self, number):
        kept = os.path.join(self.place, f"{self.weights_crc:08x}-{number}.hessians")
        if not os.path.exists(kept):
            super().gather(number)
            shutil.copyfile(self.gathered, kept + ".tmp")
            os.replace(kept + ".tmp", kept)
        self.hessians, self.current = self.gptq.Hessians(kept, self.weights_crc), number


def everywhere(tensor, wanted):
    """As export.format_of, but every matrix has the format."""
    return "f32" if tensor[1] == "V" else wanted


def make(directory, file, format, program, place, format_of=export.format_of, balance=None):
    """What export.py DIRECTORY FILE --format FORMAT --calibrate PROGRAM makes; the Hessians stay in place, a folder.
    balance: the format whose balance of norms and columns the file has, if not its own."""
    before = export.Calibration, export.format_of, export.BALANCE
    try:
        export.Calibration, export.format_of, Kept.place = Kept, format_of, place
        export.BALANCE = {**export.BALANCE, format: export.BALANCE[balance or format]}
        export.export(directory, file, format, calibrate=program)
    finally:
        export.Calibration, export.format_of, export.BALANCE = before
