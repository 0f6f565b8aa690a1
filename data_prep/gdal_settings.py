"""How GDAL behaves in every process of the package: it raises errors and keeps off the network."""

import os

from osgeo import gdal, osr

NETWORK = "STFNET_ALLOW_NETWORK"
"""Environment variable that, set to 1, lets rasters be read over the network."""
# Formats that are services on the network, or descriptions of such.
_NETWORK_DRIVERS = (
    *("HTTP", "WMS", "WMTS", "WCS", "DODS", "DAAS", "EEDA", "EEDAI", "NGW", "OGCAPI"),
    *("PLMOSAIC", "PLScenes", "PostGISRaster", "GeoRaster", "RDA", "STACIT", "STACTA"),
)


def apply() -> None:
    """Sets GDAL up; `grids` calls it when it is imported, before anything else uses GDAL."""
    gdal.UseExceptions()
    osr.UseExceptions()
    if not network_allowed():
        _leave_network_alone()
    # A VRT may hold Python code, too.
    gdal.SetConfigOption("GDAL_VRT_ENABLE_PYTHON", "NO")
    # GDAL would take 5 % of the machine's memory for its block cache, in every worker process.
    gdal.SetCacheMax(192 * 2**20)


def network_allowed() -> bool:
    """Whether the user lets rasters be read over the network."""
    return os.environ.get(NETWORK) == "1"


def _leave_network_alone() -> None:
    """Keeps GDAL off the network, also where a VRT or another raster names such a source.

    A raster may come from a stranger, and opening it must not tell anybody that it was opened, or
    ask a server inside somebody's network.
    """
    for name in _NETWORK_DRIVERS:
        if driver := gdal.GetDriverByName(name):
            driver.Deregister()
    # All virtual file systems on the network ask whether a name is this one, which none can be.
    gdal.SetConfigOption("CPL_VSIL_CURL_ALLOWED_FILENAME", "none")
    # Nothing listens there, for what does not ask.
    gdal.SetConfigOption("GDAL_HTTP_PROXY", "http://127.0.0.1:9")
