<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">
      <colorPalette>
        <paletteEntry value="0" label="background" color="#e1e1d7" alpha="255" />
        <paletteEntry value="1" label="building" color="#c84132" alpha="255" />
      </colorPalette>
    </rasterrenderer>
  </pipe>
  <renderer-v2 type="categorizedSymbol" attr="class_id" symbollevels="0">
    <categories>
      <category value="0" type="long" label="background" symbol="0" render="true" />
      <category value="1" type="long" label="building" symbol="1" render="true" />
    </categories>
    <symbols>
      <symbol type="fill" name="0" alpha="1">
        <layer class="SimpleFill" enabled="1">
          <Option type="Map">
            <Option type="QString" name="color" value="225,225,215,255" />
            <Option type="QString" name="outline_color" value="112,112,107,255" />
            <Option type="QString" name="style" value="solid" />
            <Option type="QString" name="outline_style" value="solid" />
            <Option type="QString" name="outline_width" value="0.1" />
          </Option>
        </layer>
      </symbol>
      <symbol type="fill" name="1" alpha="1">
        <layer class="SimpleFill" enabled="1">
          <Option type="Map">
            <Option type="QString" name="color" value="200,65,50,255" />
            <Option type="QString" name="outline_color" value="100,32,25,255" />
            <Option type="QString" name="style" value="solid" />
            <Option type="QString" name="outline_style" value="solid" />
            <Option type="QString" name="outline_width" value="0.1" />
          </Option>
        </layer>
      </symbol>
    </symbols>
  </renderer-v2>
  <blendMode>0</blendMode>
</qgis>
